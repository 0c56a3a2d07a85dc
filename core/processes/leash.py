"""What the supervisor and its children say to each other over a leash, without I/O.

A leash is a socket pair between the supervisor and one child.  Both ends send messages, each a line of JSON.
A listening socket that a message speaks of travels with the message.
The end of a leash is a message too: to a child that the supervisor is gone, to the supervisor that the child is.
Both ends are of one build, so a message may change with it.
"""

import signal
from collections.abc import Mapping
from typing import Generic, TypeAlias, TypeVar

import msgspec

LEASH = "POINTSMAN_LEASH"
"""Environment variable that tells a child the file descriptor of its end."""

WHERE = signal.SIGUSR2
"""Signal at which a picker writes where it is into its output, whatever it is caught in."""

LINE_BYTES_MAX = 1 << 20
"""The longest message names the ports of all pools, some 50 bytes each: this is twenty thousand pools."""


class LeashError(Exception):
    """What came over a leash is not what its two ends say to each other."""


# --- from a child ---------------------------------------------------------------------------------


class PoolPort(msgspec.Struct, frozen=True):
    """A pool and the port of its picker."""

    pool: str
    port: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The child does its work."""


class WantedPorts(msgspec.Struct, frozen=True, tag="ports"):
    """The ports that the control process wants pickers on; what was wanted before and is not among them is closed."""

    ports: tuple[PoolPort, ...]


class LifeRecorded(msgspec.Struct, frozen=True, tag="recorded"):
    """The log has the end of a picker's life, so the supervisor need not tell of it again."""

    picker: str
    epoch: int


class OperatorLine(msgspec.Struct, frozen=True, tag="say"):
    """A line for the operator, who reads what the supervisor prints."""

    line: str


ChildMessage: TypeAlias = Ready | WantedPorts | LifeRecorded | OperatorLine


# --- to any child ---------------------------------------------------------------------------------


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End."""

    seconds: float = 0.0
    """Time that streams in progress have to finish; what has none of them ends at once."""


# --- to the control process -------------------------------------------------------------------------


class PickerLife(msgspec.Struct, frozen=True):
    """One life of a picker process."""

    picker: str
    epoch: int
    """Epoch of this life; 0 where it has begun none yet."""
    last_n: int
    """The last `n` it gave out."""
    pid: int
    cause: str = ""
    """Words for how it ended; empty while it lives."""


class PickerLives(msgspec.Struct, frozen=True, tag="pickers"):
    """What a control process is told first: the pickers that live, and those whose end the log may not have."""

    alive: tuple[PickerLife, ...]
    ended: tuple[PickerLife, ...]


class PickerGone(msgspec.Struct, frozen=True, tag="picker_ended"):
    """A picker process ended."""

    life: PickerLife


class ProcessBegan(msgspec.Struct, frozen=True, tag="process_started"):
    """A process beside pickers and control process began: the gateway, a simulator."""

    name: str
    pid: int


class ProcessGone(msgspec.Struct, frozen=True, tag="process_ended"):
    """A process beside pickers and control process ended."""

    name: str
    pid: int
    cause: str


class BoundPorts(msgspec.Struct, frozen=True, tag="bound"):
    """The ports that pickers listen on."""

    ports: tuple[PoolPort, ...]


class PickerReady(msgspec.Struct, frozen=True, tag="picking"):
    """Whether some picker is ready to take requests; before the first one ever was, this says yes."""

    ready: bool


ControlMessage: TypeAlias = PickerLives | PickerGone | ProcessBegan | ProcessGone | BoundPorts | PickerReady | Stop


# --- to a picker process ----------------------------------------------------------------------------


class Listen(msgspec.Struct, frozen=True, tag="listen"):
    """Serve a pool on the socket that comes along."""

    pool: str
    port: int
    tls: bool = False


class ListenHealth(msgspec.Struct, frozen=True, tag="listen_health"):
    """Serve health on the socket that comes along."""

    port: int


class Unlisten(msgspec.Struct, frozen=True, tag="unlisten"):
    """Serve a pool no longer."""

    pool: str
    port: int


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Tell probes that the picker is leaving, and go on serving until `Stop`."""

    seconds: float
    """Time until `Stop` comes."""


PickerMessage: TypeAlias = Listen | ListenHealth | Unlisten | Drain | Stop

LeashMessage: TypeAlias = ChildMessage | ControlMessage | PickerMessage


# --- lines ------------------------------------------------------------------------------------------

M = TypeVar("M")

FROM_CHILD: msgspec.json.Decoder[ChildMessage] = msgspec.json.Decoder(ChildMessage)
TO_CONTROL: msgspec.json.Decoder[ControlMessage] = msgspec.json.Decoder(ControlMessage)
TO_PICKER: msgspec.json.Decoder[PickerMessage] = msgspec.json.Decoder(PickerMessage)

_encode = msgspec.json.Encoder().encode


class LeashLines(Generic[M]):
    """Cuts what comes over a leash into messages of the kinds that its decoder knows."""

    def __init__(self, decoder: msgspec.json.Decoder[M]) -> None:
        self._decoder = decoder
        self._rest = b""

    def feed(self, data: bytes) -> list[M]:
        """The messages that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            raise LeashError(f"found a line of over {LINE_BYTES_MAX} bytes, wanted a message")
        return [self._message(line) for line in lines]

    def _message(self, line: bytes) -> M:
        try:
            return self._decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LeashError(f"found {line[:80]!r}, wanted a message that this end knows: {error}") from error


def encode(message: LeashMessage) -> bytes:
    """One message as it travels."""
    return _encode(message) + b"\n"


def held_descriptor(environment: Mapping[str, str]) -> int:
    """The file descriptor of a child's end."""
    number = environment.get(LEASH, "")
    if not number.isdigit():
        raise LeashError(f"found {LEASH}={number!r}, wanted a file descriptor: the supervisor starts this process")
    return int(number)

"""What the supervisor tells the control process and the pickers at their start, as JSON on their command line."""

import msgspec

from pointsman.core.config.parse import PickingFlags
from pointsman.core.feed.buffer import BUFFER_BYTES_MAX

OWN_ENGINE = "pointsman"
STOCK_ENGINE = "h2"
HTTP2_ENGINES = (OWN_ENGINE, STOCK_ENGINE)
"""HTTP/2 engines of a picker's ports: our own, and the stock one, which costs more than twice the CPU."""

MESSAGE_BYTES_MAX = 4 << 20
"""Bytes of one message that a picker receives: gRPC's own default."""


HUNG_AFTER = 5.0
"""Seconds for which a picker's loop may stand: a hundred times what its longest turn takes.

It is also the time after which our gateway gives up a picker that does not answer."""


class GatewaySettings(msgspec.Struct, frozen=True):
    """Where the standalone gateway listens, and its files."""

    address: str
    port: int
    directory: str
    """Directory of the files that Envoy watches."""
    access_log: str
    admin: str = ""


class KeepLimits(msgspec.Struct, frozen=True):
    """What is kept of the log; 0 is no limit."""

    age: float = 7 * 86_400.0
    """Seconds."""
    size: int = 20 << 30
    """Bytes of all that grows with the log: segments, archive, read model."""


class ClusterSettings(msgspec.Struct, frozen=True):
    """The API server that endpoints come from."""

    kubeconfig: str = ""
    """File with its address and credentials; empty for KUBECONFIG, the pod's own, or the file in the home directory."""
    context: str = ""
    """Context of that file; empty for its current one."""
    namespaces: tuple[str, ...] = ()
    """Namespaces that are followed; none for all, or for that of the one pool."""


class ControlSettings(msgspec.Struct, frozen=True):
    """All that the control process is told."""

    data: str
    feed: str
    """Path of the feed's socket."""
    manifests: str = ""
    """Directory of YAML manifests; empty where endpoints come from a file that the configuration names."""
    cluster: ClusterSettings | None = None
    """API server that endpoints come from; None where they come from files."""
    config_file: str = ""
    config_text: str = ""
    flags: PickingFlags = PickingFlags()
    pool: str = ""
    """`namespace/name` of the one pool that is served; empty for all."""
    refresh_interval: float = 0.05
    """Seconds between two scrapes of an endpoint, at the least."""
    picker_tls: bool = False
    metrics: int = -1
    """File descriptor of the listening socket for `/metrics`; -1 for none."""
    legacy_metrics: bool = False
    """Whether `/metrics` has the names of GIE v0.5 as well."""
    gateway: GatewaySettings | None = None
    console: int = -1
    """File descriptor of the listening socket for the console; -1 for none."""
    keep: KeepLimits = KeepLimits()


class StreamLimits(msgspec.Struct, frozen=True):
    """What one picker process takes on."""

    body_bytes_max: int = 100 * 2**20
    """Bytes in one request's body; beyond it 413.  Prompts with many images stay below."""
    held_bytes_max: int = 2**30
    """Bytes of all request bodies that are not routed yet; beyond it 503."""
    streams_max: int = 16384
    """Streams in flight, their responses included; beyond it 503.  Four connections full of them."""


class Patience(msgspec.Struct, frozen=True):
    """How long a picker process waits for the peers of its ports."""

    greeting: float = 10.0
    """Seconds for TLS, and for HTTP/2's preface and first SETTINGS after it: gateways send them with their first packets."""
    message: float = 60.0
    """Seconds for the first message of a stream, for the rest of a message, of a frame or of a block of headers that has begun.

    Gateways open a stream to send its first message, and pass on what has come to them.
    """
    unread: float = 60.0
    """Seconds for which nothing of what is written to a connection may be read: a gateway that works reads all the time."""
    stream_unread: float = 300.0
    """Seconds for which nothing of one stream may be read, while others of its connection are.

    Some gateways hand the slowness of a client on; Envoy ends a request on which nothing moves after as long.
    """
    idle: float = 300.0
    """Seconds for which a connection without a stream is kept; a gateway that has work again opens another."""
    leaving: float = 5.0
    """Seconds between telling a peer to open nothing more and closing, so that what is under way is not lost."""
    vanished: int = 60
    """Seconds for which a peer's system may answer nothing at all, be it asked to or not: its machine is gone, or the way to it.

    What it had open counts as load until then.
    """
    look: float = 1.0
    """Seconds between two looks at all of these: what each may be late by."""


class PickerOptions(msgspec.Struct, frozen=True):
    """What an operator chooses for pickers."""

    cert_path: str = ""
    """Directory of the certificate and its key; empty for a certificate that signs itself."""
    tls_min_version: str = ""
    health_checking: bool = False
    """Whether the pools' ports answer the health service as well."""
    message_bytes_max: int = MESSAGE_BYTES_MAX
    engine: str = OWN_ENGINE
    """One of `HTTP2_ENGINES`."""
    buffer_bytes_max: int = BUFFER_BYTES_MAX
    """Bytes of entries that the log has not acknowledged."""
    limits: StreamLimits = StreamLimits()
    hung_after: float = HUNG_AFTER
    """Seconds without a turn of its loop after which the supervisor ends a picker; 0 for never."""
    reload_certificates: bool = False
    """Whether a certificate that is renewed in `cert_path` is taken up."""
    patience: Patience = Patience()


class PickerSettings(msgspec.Struct, frozen=True):
    """All that a picker process is told."""

    picker: str
    """Name of the picker, the same in each of its lives."""
    feed: str
    """Path of the feed's socket."""
    build: str
    page: str = ""
    """Path of the page that is shared with the supervisor; empty for none."""
    options: PickerOptions = PickerOptions()
    stop_within: float = 3.0
    """Seconds for streams in progress where a signal ends the process; the supervisor kills after five."""


def encode(settings: ControlSettings | PickerSettings) -> str:
    """The settings as one word of a command line."""
    return msgspec.json.encode(settings).decode()

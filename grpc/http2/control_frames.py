"""The HTTP/2 state machine under grpclib, for servers: frames that are about the connection (RFC 9113)."""

from h2.connection import ConnectionState
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    Event,
    PingAckReceived,
    PingReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    SettingsAcknowledged,
)
from h2.exceptions import DenialOfServiceError, FlowControlError, FrameDataMissingError, ProtocolError
from h2.settings import ChangedSetting, SettingCodes

from pointsman.grpc.http2.sending import ACK, FRAME_BYTES, NUISANCES_MAX, PING, SETTINGS, WINDOW_MAX, Sender, frame


class Controller(Sender):
    """Reads settings, pings, priorities and what else concerns no single stream, and counts what costs and carries none."""

    def __init__(self, streams_max: int) -> None:
        super().__init__(streams_max)
        self._settings_seen = False
        self._nuisances = 0

    def forgive(self) -> None:
        """Start counting nuisances anew; the owner, who has a clock, calls this once a second."""
        self._nuisances = 0

    def _nuisance(self) -> None:
        self._nuisances += 1
        if self._nuisances > NUISANCES_MAX:
            self._fail(
                DenialOfServiceError(
                    f"{self._nuisances} frames that carry nothing, wanted at most {NUISANCES_MAX} a second"
                )
            )

    def _priority(self, stream_id: int, payload: bytes) -> PriorityUpdated:
        depends_on = int.from_bytes(payload[:4], "big")
        if depends_on & 0x7FFFFFFF == stream_id:
            self._fail(ProtocolError(f"stream {stream_id} depends on itself"))
        event = PriorityUpdated()
        event.stream_id = stream_id
        event.depends_on = depends_on & 0x7FFFFFFF
        event.exclusive = bool(depends_on >> 31)
        event.weight = payload[4] + 1
        return event

    def _read_priority(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._nuisance()
        if stream_id == 0:
            self._fail(ProtocolError("PRIORITY on stream 0"))
        if len(payload) != 5:
            self._fail(FrameDataMissingError(f"PRIORITY of {len(payload)} bytes, wanted 5"))
        events.append(self._priority(stream_id, payload))

    def _read_settings(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._nuisance()
        if stream_id:
            self._fail(ProtocolError(f"SETTINGS on stream {stream_id}, wanted 0"))
        if flags & ACK:
            if payload:
                self._fail(FrameDataMissingError("SETTINGS acknowledgement with a payload"))
            self._settings_seen = True
            event = SettingsAcknowledged()
            if self._settings_sent:
                for code, value in self._settings_sent.popleft().items():
                    event.changed_settings[code] = ChangedSetting(code, None, value)
            events.append(event)
            return
        self._settings_seen = True
        if len(payload) % 6:
            self._fail(FrameDataMissingError(f"SETTINGS of {len(payload)} bytes, wanted a multiple of 6"))
        changed = RemoteSettingsChanged()
        for start in range(0, len(payload), 6):
            code = int.from_bytes(payload[start : start + 2], "big")
            value = int.from_bytes(payload[start + 2 : start + 6], "big")
            changed.changed_settings[code] = ChangedSetting(code, None, value)
            self._setting(code, value)
        self._output.append(frame(SETTINGS, ACK, 0))
        events.append(changed)

    def _setting(self, code: int, value: int) -> None:
        if code == SettingCodes.INITIAL_WINDOW_SIZE:
            if value > WINDOW_MAX:
                self._fail(ProtocolError(f"initial window of {value} bytes"), ErrorCodes.FLOW_CONTROL_ERROR)
            change = value - self._stream_window_out
            for stream in self.streams.values():
                stream.sendable += change
                if stream.sendable > WINDOW_MAX:
                    self._fail(FlowControlError(f"window of stream {stream.id} is {stream.sendable}"))
            self._stream_window_out = value
        elif code == SettingCodes.MAX_FRAME_SIZE:
            if not FRAME_BYTES <= value < 1 << 24:
                self._fail(ProtocolError(f"maximum frame size of {value} bytes"))
            self.max_outbound_frame_size = value
        elif code == SettingCodes.ENABLE_PUSH and value > 1:
            self._fail(ProtocolError(f"ENABLE_PUSH is {value}, wanted 0 or 1"))

    def _read_push_promise(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._fail(ProtocolError("PUSH_PROMISE from a client"))

    def _read_ping(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._nuisance()
        if stream_id:
            self._fail(ProtocolError(f"PING on stream {stream_id}, wanted 0"))
        if len(payload) != 8:
            self._fail(FrameDataMissingError(f"PING of {len(payload)} bytes, wanted 8"))
        if flags & ACK:
            events.append(PingAckReceived(ping_data=payload))
        else:
            self._output.append(frame(PING, ACK, 0, payload))
            events.append(PingReceived(ping_data=payload))

    def _read_goaway(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id:
            self._fail(ProtocolError(f"GOAWAY on stream {stream_id}, wanted 0"))
        if len(payload) < 8:
            self._fail(FrameDataMissingError(f"GOAWAY of {len(payload)} bytes, wanted at least 8"))
        event = ConnectionTerminated()
        event.error_code = error_code(int.from_bytes(payload[4:8], "big"))
        event.last_stream_id = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
        event.additional_data = payload[8:] or None
        self.state_machine.state = ConnectionState.CLOSED
        events.append(event)


def error_code(code: int) -> ErrorCodes | int:
    try:
        return ErrorCodes(code)
    except ValueError:
        return code

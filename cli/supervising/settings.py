"""What the supervisor tells its children at their start, as JSON on their command line."""

import msgspec

from pointsman.core.config.parse import PickingFlags


class GatewaySettings(msgspec.Struct, frozen=True):
    """Where the standalone gateway listens, and its files."""

    address: str
    port: int
    directory: str
    """Of the files that Envoy watches."""
    access_log: str
    admin: str = ""


class ControlSettings(msgspec.Struct, frozen=True):
    """All that the control process is told."""

    data: str
    feed: str
    """Path of the feed's socket."""
    manifests: str = ""
    """Directory of YAML manifests; empty where endpoints come from a file that the configuration names."""
    config_file: str = ""
    config_text: str = ""
    flags: PickingFlags = PickingFlags()
    pool: str = ""
    """`namespace/name` of the one pool that is served; empty for all."""
    refresh_interval: float = 0.05
    picker_tls: bool = False
    metrics: int = -1
    """File descriptor of the listening socket for `/metrics`; -1 for none."""
    gateway: GatewaySettings | None = None
    console: int = -1
    """As `metrics`, of the console."""


def encode(settings: msgspec.Struct) -> str:
    """As words of a command line."""
    return msgspec.json.encode(settings).decode()

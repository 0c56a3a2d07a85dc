"""Endpoints from a file instead of Kubernetes."""

import msgspec

from pointsman.core.plugin.shapes import discovery


@discovery("file-discovery", version=1)
class FileDiscovery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The control process reads the file that `EffectiveConfig.discovery` names."""

    path: str
    watch_file: bool = False

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path is empty, wanted a file's")

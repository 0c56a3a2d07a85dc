"""The configuration in force, followed from its file into the log."""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from pointsman.cli.supervising.config_file import parse_text
from pointsman.core.config.parse import ConfigError, EffectiveConfig, decode_config, default_config
from pointsman.core.events import ConfigAccepted, ConfigRejected
from pointsman.core.processes.settings import ControlSettings
from pointsman.core.state.projection import ClusterState
from pointsman.eventlog.appender import Appender

ALL_POOLS = "*"

LOOK = 0.5
"""Seconds between two looks at the file."""

FILE_BYTES_MAX = 1 << 20

_Stamp = tuple[int, int, int]


class ConfigFollower:
    """Puts the configuration of the settings, or of the file that they name, into the log whenever it changes."""

    def __init__(
        self, settings: ControlSettings, appender: Appender, state: ClusterState, tell: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._tell = tell
        self.changed = trio.Event()
        """Event that is set, and replaced by a new one, when another configuration is in force."""
        self._appender = appender
        self._source = settings.config_file or ("--config-text" if settings.config_text else "built-in default")
        self._stamp: _Stamp | None = None
        self._rejected = ""
        found = state.configs.get(ALL_POOLS)
        self._in_log = b"" if found is None else found.config
        self.effective = self._restored()
        """Configuration in force."""

    def _restored(self) -> EffectiveConfig:
        try:
            return decode_config(self._in_log) if self._in_log else self._default()
        except msgspec.MsgspecError:
            return self._default()  # another version wrote it; the file, read next, replaces it

    def _default(self) -> EffectiveConfig:
        return default_config(self._settings.flags)

    async def begin(self) -> str:
        """Read the configuration for the first time; where it is wrong, keep the former and return the error in words."""
        if self._settings.config_file:
            await self._look()
        elif self._settings.config_text:
            await self._take(self._settings.config_text)
        else:
            await self._accept(self._default())
        if self._rejected and not self._in_log:
            await self._accept(self._default())
        return self._rejected

    async def run(self) -> None:
        """Look at the file for ever."""
        while self._settings.config_file:
            await trio.sleep(LOOK)
            await self._look()

    async def _look(self) -> None:
        path = Path(self._settings.config_file)
        try:
            found = os.stat(path)
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            if found.st_size > FILE_BYTES_MAX:
                raise ConfigError(1, f"the file has {found.st_size} bytes, wanted {FILE_BYTES_MAX} at most")
            text = await trio.to_thread.run_sync(path.read_text)
        except ConfigError as error:
            await self._reject(error)
        except (OSError, UnicodeDecodeError) as error:
            await self._reject(ConfigError(0, f"cannot be read: {getattr(error, 'strerror', None) or error}"))
        else:
            await self._take(text)

    async def _take(self, text: str) -> None:
        try:
            await self._accept(parse_text(text, self._settings.flags))
        except ConfigError as error:
            await self._reject(error)

    async def _accept(self, config: EffectiveConfig) -> None:
        self._rejected = ""
        self.effective = config
        encoded = config.encode()
        if encoded == self._in_log:
            return
        self._in_log = encoded
        for warning in config.warnings:
            self._tell(f"{self._source}: warning: {warning}")
        await self._appender.append(ConfigAccepted(ALL_POOLS, encoded, self._source))
        self.changed.set()
        self.changed = trio.Event()

    async def _reject(self, error: ConfigError) -> None:
        words = f"{self._source}, {error}"
        if words == self._rejected:
            return
        self._rejected = words
        self._tell(f"{words}; what was in force stays")
        await self._appender.append(ConfigRejected(ALL_POOLS, self._source, error.line, error.message))

"""`pointsman epp` as an operator starts it, with endpoints from a file."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worlds.ports import free_port
from worlds.waiting import HUNG, wait_for

CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: queue-scorer}
- {type: file-discovery, parameters: {path: %s}}
dataLayer: {discovery: {pluginRef: file-discovery}}
schedulingProfiles: [{name: default, plugins: [{pluginRef: queue-scorer}]}]
"""


class EppProcess:
    """The processes of one `pointsman epp`, in a directory of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.endpoints = home / "endpoints.yaml"
        self.config = home / "config.yaml"
        self.data = home / "data"
        self.port = free_port("127.0.0.1")
        self.supervisor = 0
        """Process id of the command while it runs."""
        self._output = home / "output"

    def said(self) -> str:
        """All that it has written."""
        return self._output.read_text() if self._output.exists() else ""

    def until(self, words: str) -> None:
        """Wait until it has said this."""
        wait_for(lambda: words in self.said(), HUNG, lambda: f"{words!r} after {self.said()}")

    def put(self, *servers: str) -> None:
        """Have the endpoints file list these, each as `host:port`."""
        listed = [
            f"- {{name: m{i}, address: {s.partition(':')[0]}, port: '{s.partition(':')[2]}'}}\n"
            for i, s in enumerate(servers, 1)
        ]
        beside = self.endpoints.with_suffix(".new")
        beside.write_text("endpoints:\n" + "".join(listed))
        beside.replace(self.endpoints)

    @contextmanager
    def running(self, *flags: str) -> Iterator[None]:
        """The command with these flags, until the block ends."""
        if not self.config.exists():
            self.config.write_text(CONFIG % self.endpoints)
        words = [f"--config-file={self.config}", f"--data-dir={self.data}", f"--grpc-port={self.port}"]
        words += ["--grpc-health-port=0", "--metrics-port=0", *flags]
        with open(self._output, "ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pointsman.cli", "epp", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ,
                cwd=self.home,
            )
        self.supervisor = process.pid
        try:
            yield
        finally:
            process.terminate()
            process.wait(HUNG)

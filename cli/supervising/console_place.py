"""Where the console of a deployment is, for people and for commands."""

import socket
from collections.abc import Mapping
from pathlib import Path

CONSOLE_PORT = 8090


def url_of(listening: socket.socket) -> str:
    """The URL under which a browser on this machine finds what listens there."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def url_file(data: Path) -> Path:
    """The file in which a control process says at which URL it serves the console."""
    return data / "run" / "console.url"


def running_console(data: Path) -> str | None:
    """The URL of the console of the deployment in `data`; None where none runs."""
    try:
        return url_file(data).read_text().strip()
    except OSError:
        return None


def tunnel(port: int, environment: Mapping[str, str]) -> str:
    """The command that brings the console to the machine a user came from by SSH; empty without SSH."""
    told = environment.get("SSH_CONNECTION", "").split()
    if len(told) != 4:
        return ""
    user = environment.get("USER", "")
    return f"ssh -L {port}:127.0.0.1:{port} {user}{'@' if user else ''}{told[2]}"

"""Where the console of a deployment is, for people and for commands."""

import socket
from collections.abc import Mapping
from pathlib import Path

CONSOLE_PORT = 8090


def url_of(listening: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def url_file(data: Path) -> Path:
    """Where a control process that serves a console says at which URL."""
    return data / "run" / "console.url"


def running_console(data: Path) -> str | None:
    """The URL of the console of the deployment in `data`; None where none runs."""
    try:
        return url_file(data).read_text().strip()
    except OSError:
        return None


def tunnel(port: int, environment: Mapping[str, str]) -> str:
    """What brings the console to the machine from which somebody came by SSH; empty where nobody did."""
    told = environment.get("SSH_CONNECTION", "").split()
    if len(told) != 4:
        return ""
    user = environment.get("USER", "")
    return f"ssh -L {port}:127.0.0.1:{port} {user}{'@' if user else ''}{told[2]}"

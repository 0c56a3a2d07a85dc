"""Where the console may listen as long as it has no sign-in: this machine alone."""

import errno
import ipaddress
import socket


class NotLoopback(Exception):
    """Raised for an address that other machines can reach."""


def check_loopback(host: str) -> None:
    """Raise `NotLoopback` for an address that is not this machine's own."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise NotLoopback(
            f"the console's address is {host!r}, wanted loopback (127.0.0.1 or ::1): it has no sign-in yet, so whoever "
            "reaches it could move traffic; from another machine use a tunnel: ssh -L 8090:127.0.0.1:8090 HOST"
        )


def listen(host: str, port: int, tries: int = 1) -> socket.socket:
    """A listening socket on loopback, at `port` or one of the `tries - 1` after it; 0 lets the system choose."""
    check_loopback(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in range(port, min(port + tries, 65_536)):
        found = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((host, wanted))
            found.listen(128)
            return found
        except OSError as error:
            found.close()
            if error.errno != errno.EADDRINUSE or wanted == port + tries - 1:
                raise
    raise OSError(errno.EADDRINUSE, f"no free port on {host} from {port} on")

"""Binding listening sockets."""

import errno
import socket

BACKLOG = 1024
"""Connections that may wait while the process that accepts them is started again."""


def bind(address: str, port: int) -> socket.socket:
    """A listening socket at exactly this address; `OSError` where that cannot be had."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            # `::` takes IPv4 as well, as Go's servers do.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind((address, port))
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound


def bind_nearby(address: str, port: int, tries: int) -> socket.socket:
    """A listening socket at this port, or at the first free one of the `tries` from it on."""
    for candidate in range(port, min(port + tries, 65_536)):
        try:
            return bind(address, candidate)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    raise OSError(errno.EADDRINUSE, f"no free port on {address} from {port} to {min(port + tries, 65_536) - 1}")


def bind_everywhere(port: int) -> socket.socket:
    """A listening socket at this port on all interfaces, IPv6 included where there is any."""
    try:
        return bind("::", port)
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
    return bind("0.0.0.0", port)


def port_of(bound: socket.socket) -> int:
    """The port that a socket is bound to."""
    port: int = bound.getsockname()[1]
    return port


def answers(address: str, port: int) -> bool:
    """Whether a process accepts connections there."""
    try:
        socket.create_connection((address, port), timeout=0.1).close()
    except OSError:
        return False
    return True

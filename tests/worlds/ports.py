"""Ports that a test gives to a process it starts, so that no other process takes them before that one listens.

The operating system gives out ports of its ephemeral range (32768 and up on Linux) to every socket that asks for none
in particular, clients' included.  Ports to be used later therefore come from below it.  Test processes that run side
by side share these by blocks: whoever holds the first port of a block owns the others.
"""

import os
import random
import socket
from collections.abc import Iterator
from functools import cache
from itertools import cycle, islice
from pathlib import Path

LOWEST, HIGHEST = 10_000, 32_768
"""Where blocks may lie: above what services commonly have, below the ephemeral ports of most machines."""
BLOCK, STEP = 200, 4
"""Ports of one block, and from one that is given out to the next: who finds it busy may take one of those between.

A system of two pools takes seven, and one process has few systems at a time.
"""


def free_port(*addresses: str) -> int:
    """A port that is free on all of these addresses, and that no other test process gives out."""
    _, ports = _block()
    for port in islice(ports, BLOCK // STEP):
        if all(_free(address, port) for address in addresses):
            return port
    raise AssertionError(f"no port is free on all of {addresses}")


def _free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


@cache
def _block() -> tuple[socket.socket, Iterator[int]]:
    """What holds this process's block, and its ports in turn, so that one is used again as late as possible."""
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    firsts = range(LOWEST, min(ephemeral, HIGHEST) - BLOCK + 1, BLOCK)
    for first in random.Random(os.getpid()).sample(firsts, len(firsts)):
        holding = socket.socket()
        try:
            holding.bind(("127.0.0.1", first))
        except OSError:
            holding.close()
            continue
        return holding, cycle(range(first + STEP, first + BLOCK, STEP))
    raise AssertionError(f"all blocks of ports from {LOWEST} to {ephemeral} are taken")

"""The bare echo on a port of its own.

    .venv/bin/python benchmarks/echo.py PORT

What a picker costs is told as a ratio to this, measured in the same run.
"""

import asyncio
import gc
import sys

from grpclib.server import Server

from pointsman.cli.bench.echo import Echo


async def main() -> None:
    """Serve until killed."""
    server = Server([Echo()])
    await server.start("127.0.0.1", int(sys.argv[1]))
    gc.freeze()
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())

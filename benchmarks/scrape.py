"""CPU of a scrape: fetch and extract a 19 KB vLLM page, 50 ms apart, from real servers in another process.

Run as `python benchmarks/scrape.py [endpoints] [seconds]`.  CPU is this process's, user and system, without the
servers'.  The yardstick is the work of the same pages without Pointsman: a bare blocking socket and `bytes.find`.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Sequence

import trio

from pointsman.cli.bench.bench_scrape import back_to_back, page_servers
from pointsman.cli.bench.vllm_page import vllm_page
from pointsman.cluster.scraping.scraper import Scraper, ScrapeSettings
from pointsman.core.events import EndpointJoined, Event, LoadSampled, PoolApplied, encode
from pointsman.core.parsers.metrics.engines import ENGINES
from pointsman.core.parsers.metrics.server_metrics import extract
from pointsman.core.state.projection import ClusterState
from pointsman.core.values.packing import unpack


def _state(ports: Sequence[int]) -> ClusterState:
    state = ClusterState()
    state.apply_event(1, PoolApplied("default/llama", {"app": "llama"}, (8000,)))
    for at, port in enumerate(ports):
        joined = EndpointJoined(at + 1, "default/llama", f"uid-{at}", "default", f"llama-{at}", "127.0.0.1", port)
        state.apply_event(at + 2, joined)
    return state


def _scraped(ports: Sequence[int], seconds: float) -> None:
    samples = entries = sample_bytes = 0

    def emit(events: Sequence[Event]) -> None:
        nonlocal samples, entries, sample_bytes
        for event in events:
            if isinstance(event, LoadSampled):
                samples += len(unpack(event.endpoints))
                entries += 1
                sample_bytes += len(encode(event))

    async def main() -> None:
        state = _state(ports)
        scraper = Scraper(ScrapeSettings(), lambda: state, emit, last_request=time.monotonic, on_result=lambda: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scraper.run)
            await trio.sleep(0.5)
            before, cpu, kernel = samples, time.process_time(), os.times().system
            await trio.sleep(seconds)
            count, cpu, kernel = samples - before, time.process_time() - cpu, os.times().system - kernel
            print(f"{len(ports)} endpoints, {count / seconds:,.0f} scrapes/s: {cpu / count * 1e6:.1f} µs CPU a scrape")
            print(f"of these {kernel / count * 1e6:.0f} µs in the kernel")
            print(
                f"{cpu / seconds * 100:.1f} % of a core; {sample_bytes / samples:.1f} bytes a sample in {entries} entries"
            )
            print(scraper.statistics())
            nursery.cancel_scope.cancel()

    trio.run(main)


def _yardstick(port: int, rounds: int = 2000) -> None:
    """Print the least CPU in which this machine can fetch a page and search it."""
    needles = [b"\nvllm:num_requests_waiting{", b"\nvllm:num_requests_running{", b"\nvllm:kv_cache_usage_perc{"]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        began = time.process_time()
        for _ in range(rounds):
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            page = b""
            while not page.endswith(b"0\r\n\r\n"):
                page += connection.recv(65536)
            for needle in needles:
                at = page.find(b" ", page.find(needle))
                float(page[at : page.find(b"\n", at)])
        print(f"yardstick: {(time.process_time() - began) / rounds * 1e6:.1f} µs CPU, blocking and sequential")


def _extraction(rounds: int = 5000) -> None:
    page, engine = vllm_page(), ENGINES["vllm"]
    times = []
    for _ in range(7):
        began = time.process_time()
        for _ in range(rounds):
            extract(page, engine, time.time())
        times.append((time.process_time() - began) / rounds)
    print(f"extraction of {len(page):,} bytes: {sorted(times)[3] * 1e6:.1f} µs CPU")


def main() -> None:
    """Print all three measurements."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
    with page_servers(count) as ports:
        _extraction()
        _yardstick(ports[0])
        found = back_to_back(ports, seconds)
        print(f"fetch and extract, back to back: {found:.1f} µs CPU")
        _scraped(ports, seconds)
        if "--json" in sys.argv:
            print(json.dumps({"fetch_us": found}))


if __name__ == "__main__":
    main()

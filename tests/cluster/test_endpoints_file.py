"""An endpoints file is taken whole or not at all."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import given, strategies as st
from worlds.waiting import HUNG

from pointsman.cluster.manifests.endpoints_file import EndpointsFile, read_endpoints, wanted_of_endpoints
from pointsman.cluster.manifests.watch import LOOK_EVERY, watch_endpoints
from pointsman.cluster.objects.wanted import Member
from pointsman.cluster.objects.yaml_document import BYTES_MAX, DocumentError
from pointsman.core.events import Event, PoolApplied, SourceAccepted, SourceRejected
from pointsman.core.state.projection import ClusterState

POOL = "default/epp"
TEXT = """\
endpoints:
  - name: llama-0
    namespace: lab
    address: 10.0.0.1
    port: "8000"
    labels: {app: llama}
  - name: llama-1
    address: fd00::0:1
    port: "8001"
"""


def read(text: str) -> EndpointsFile:
    return read_endpoints("endpoints.yaml", text.encode(), POOL)


def test_a_file_lists_members() -> None:
    file = read(TEXT)

    assert file.warnings == ()
    assert file.members == (
        Member(POOL, "lab/llama-0", "lab", "llama-0", "10.0.0.1", 8000, 0, {"app": "llama"}, True, "endpoints.yaml"),
        Member(POOL, "default/llama-1", "default", "llama-1", "fd00::1", 8001, 0, {}, True, "endpoints.yaml"),
    )
    assert wanted_of_endpoints(file, POOL).objects == (PoolApplied(POOL, {}, (8000, 8001), source="endpoints.yaml"),)


@pytest.mark.parametrize("name", ["  - {name: '', ", "  - {"])
def test_an_endpoint_without_a_name_is_named_by_its_address(name: str) -> None:
    listed = f"{name}namespace: lab, address: 'FD00::0:1', port: '8000'}}"
    [member] = read(f"endpoints:\n{listed}\n").members

    assert (member.name, member.uid, member.address) == ("fd00::1", "lab/fd00::1", "fd00::1")


def test_an_empty_list_is_valid() -> None:
    assert read("endpoints: []").members == ()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.ip_addresses(), st.integers(1, 65535), st.booleans())))
def test_what_is_listed_is_what_is_read(rows: list[tuple[str, object, int, bool]]) -> None:
    rows = list({(row[0], row[2]): row for row in rows}.values())
    listed = [{"name": n, "address": str(a), "port": str(p) if text else p} for n, a, p, text in rows]
    file = read(json.dumps({"endpoints": listed}))

    assert [(m.name, m.address, m.port) for m in file.members] == [(n, str(a), p) for n, a, p, _ in rows]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (TEXT.replace("name: llama-1", "name: 5"), 7, "endpoints[1].name: found 5, wanted text, in quotes"),
        (TEXT.replace("10.0.0.1", "llama.example"), 4, "endpoints[0].address: found 'llama.example', wanted an IP address"),
        (TEXT.replace("10.0.0.1", "10.0.0.256"), 4, "wanted an IP address"),
        (TEXT.replace('"8000"', '"eight"'), 5, "endpoints[0].port: found 'eight', wanted a port from 1 to 65,535"),
        (TEXT.replace('"8000"', '"0"'), 5, "found '0', wanted a port"),
        (TEXT.replace('"8000"', "65536"), 5, "found 65536, wanted a whole number from 1 to 65,535"),
        (TEXT.replace('"8000"', "[]"), 5, "found a list, wanted a whole number"),
        (TEXT.replace("{app: llama}", "{app: 1}"), 6, "labels.app: found 1, wanted text, in quotes"),
        (TEXT + TEXT[TEXT.index("  - name: llama-1") :], 10, "endpoint default/llama-1:8001 stands in line 7 already"),
        ("endpoints:\n", 1, "found nothing, wanted a list of endpoints"),
        ("endpoint: []\n", 1, "found nothing, wanted a list of endpoints"),
        ("endpoints: {}\n", 1, "found a mapping, wanted a list of endpoints"),
        ("endpoints: [5]\n", 1, "endpoints[0]: found 5, wanted a mapping"),
        ("- a\n", 1, "found a list, wanted one with a list `endpoints`"),
        ("", 0, "found 0 documents, wanted one"),
        ("endpoints: []\n---\nendpoints: []\n", 3, "found 2 documents, wanted one"),
        ("#" * (BYTES_MAX + 1), 0, "wanted 1,048,576 at most"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read(text)

    assert (words in caught.value.message, caught.value.message, caught.value.line) == (
        True,
        caught.value.message,
        line,
    )


def test_an_unknown_field_is_a_warning() -> None:
    assert read(TEXT + "    label: {}\n").warnings == (
        "line 10: endpoints[1].label: unknown field, did you mean 'labels'?",
    )


class Log:
    """Takes events as the appender does, and folds them."""

    def __init__(self) -> None:
        self.state = ClusterState()
        self.events: list[Event] = []

    async def emit(self, events: Sequence[Event], removals: Sequence[int]) -> None:
        await trio.lowlevel.checkpoint()
        self.events.extend(events)
        for event in events:
            self.state.apply_event(self.state.position + 1, event)

    async def until(self, kind: type[Event]) -> Event:
        with trio.fail_after(HUNG):
            while not any(isinstance(event, kind) for event in self.events):
                await trio.sleep(0.01)
        found = next(event for event in self.events if isinstance(event, kind))
        self.events.clear()
        return found


def test_a_reload_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    path, log = tmp_path / "endpoints.yaml", Log()

    async def main() -> None:
        path.write_text(TEXT)
        async with trio.open_nursery() as nursery:
            await nursery.start(watch_endpoints, path, POOL, lambda: log.state, log.emit)
            assert {e.name for e in log.state.endpoints.values()} == {"llama-0", "llama-1"}
            await log.until(SourceAccepted)
            path.write_text(
                "endpoints:\n  - {name: llama-2, address: 10.0.0.2, port: '1'}\n  - {name: llama-3, port: '1'}\n"
            )
            rejected = await log.until(SourceRejected)

            assert isinstance(rejected, SourceRejected)
            assert (rejected.source, rejected.line) == ("endpoints.yaml", 3)
            assert {e.name for e in log.state.endpoints.values()} == {"llama-0", "llama-1"}
            path.write_text("endpoints: []\n")
            await log.until(SourceAccepted)

            assert log.state.endpoints == {}
            assert log.state.rejected_sources == {}
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize("text", [None, "endpoints: 5\n"])
def test_a_restart_with_a_bad_file_keeps_what_the_log_says(tmp_path: Path, text: str | None) -> None:
    path, log = tmp_path / "endpoints.yaml", Log()

    async def main() -> None:
        path.write_text(TEXT)
        await watch_endpoints(path, POOL, lambda: log.state, log.emit, follow=False)
        path.unlink()
        if text is not None:
            path.write_text(text)
        log.events.clear()
        ready = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(watch_endpoints, path, POOL, lambda: log.state, log.emit, follow=False, ready=ready.set)
            )

            assert [type(event) for event in log.events] == [SourceRejected]
            assert len(log.state.endpoints) == 2
            with trio.fail_after(HUNG):
                await ready.wait()
            log.events.clear()
            path.write_text(TEXT)  # it is read until it was right once, which ends the watching

        assert log.events == [SourceAccepted("endpoints.yaml")]
        log.events.clear()
        await watch_endpoints(path, POOL, lambda: log.state, log.emit, follow=False)

        assert log.events == []

    trio.run(main)


@pytest.mark.parametrize("text", [None, "endpoints: 5\n"])
def test_a_file_that_is_broken_or_absent_at_the_start_is_read_until_it_is_right(
    tmp_path: Path, text: str | None
) -> None:
    path, log, ready = tmp_path / "endpoints.yaml", Log(), trio.Event()

    async def main() -> None:
        if text is not None:
            path.write_text(text)
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(watch_endpoints, path, POOL, lambda: log.state, log.emit, follow=False, ready=ready.set)
            )
            await trio.sleep(2 * LOOK_EVERY)

            assert [type(event) for event in log.events] == [SourceRejected]
            assert not ready.is_set()
            path.write_text(TEXT)
        assert ready.is_set()
        assert {e.name for e in log.state.endpoints.values()} == {"llama-0", "llama-1"}
        assert log.state.rejected_sources == {}

    trio.run(main)

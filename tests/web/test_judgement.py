"""One judgement of the whole: worst first, and the same wherever a page speaks."""

import html
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, strategies as st
from worlds.console_world import NEW, OLD, Running, running

from pointsman.core.events import EndpointChanged, Event, LoadSampled, ScrapeFailed, SourceRejected
from pointsman.core.rollout.conformity import Conformity, StepVerdict
from pointsman.core.values.packing import pack, pack_floats
from pointsman.eventlog.feed.hub import FeedStatistics
from pointsman.web.pages.judgement import RULES, PoolFacts, Severity, WholeFacts, judge

WELL = WholeFacts(pools=(PoolFacts("default/a", 3, 3, saturation=0.1), PoolFacts("default/b", 2, 2, saturation=0.0)))


def pool(**more: object) -> WholeFacts:
    changed = msgspec.structs.replace(WELL.pools[0], **more)
    return msgspec.structs.replace(WELL, pools=(changed, WELL.pools[1]))


WRONG: dict[str, tuple[WholeFacts, Severity, str]] = {
    "not-recording": (
        msgspec.structs.replace(WELL, stalled_because="the disk is full", queued=3),
        Severity.BAD,
        "Not recording: the disk is full; 3 entries wait for the disk",
    ),
    "no-picker": (msgspec.structs.replace(WELL, pickers=0), Severity.BAD, "No picker process is connected"),
    "no-ready-endpoint": (pool(ready=0, saturation=None), Severity.BAD, "A has no ready endpoint"),
    "differs": (msgspec.structs.replace(WELL, differing=2), Severity.BAD, "Replay found 2 decisions"),
    "failing": (pool(requests=100, failed=50), Severity.BAD, "A: 50 of 100 requests of the last minute failed"),
    "load-unknown": (
        pool(stale=2, never=1, oldest=12.0, saturation=None),
        Severity.BAD,
        "Nobody knows the load of a: its 3 ready endpoints have not told it for 12.0 s",
    ),
    "saturated": (
        pool(waiting=47, saturation=47 / 15),
        Severity.BAD,
        "A is saturated: 47 requests wait on 3 endpoints",
    ),
    "refusing": (pool(requests=9, refused=1), Severity.WARN, "A refused 1 request in the last minute"),
    "filling": (pool(saturation=0.9), Severity.WARN, "A is nearly full: the KV cache of 3 endpoints is full"),
    "unread-endpoints": (pool(stale=1), Severity.WARN, "A: 1 of its 3 ready endpoints cannot be read"),
    "out-of-step": (
        msgspec.structs.replace(WELL, routes=(("default/r", Conformity(StepVerdict.OUT_OF_STEP, 500)),)),
        Severity.WARN,
        "R is out of step",
    ),
    "file-not-understood": (
        msgspec.structs.replace(WELL, wrong_files=(("a.yaml", 3, "no kind"), ("b.yaml", 1, "no kind"))),
        Severity.WARN,
        "A.yaml, line 3: no kind (and 1 other file)",
    ),
    "not-ready": (pool(ready=2), Severity.WARN, "A has 2 of 3 endpoints ready"),
    "never-sampled": (pool(never=3, saturation=None), Severity.WARN, "A: 3 of 3 ready endpoints were never sampled"),
    "entries-lost": (msgspec.structs.replace(WELL, lost=1), Severity.WARN, "1 entry of picker processes lost"),
    "no-pool": (WholeFacts(), Severity.WARN, "No pool yet"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_each_thing_that_is_wrong_is_said(kind: str) -> None:
    facts, severity, words = WRONG[kind]
    found = judge(facts)

    assert found.worst is not None
    assert (found.worst.kind, found.severity) == (kind, severity)
    assert found.headline.startswith(words)


def test_every_rule_of_the_table_has_a_case() -> None:
    assert {kind for kind, _, _ in RULES} == set(WRONG)
    assert [severity for _, severity, _ in RULES] == sorted((s for _, s, _ in RULES), reverse=True)


def test_where_nothing_is_wrong_all_is_well() -> None:
    assert judge(WELL).worst is None
    assert judge(WELL).headline == "Every pool is ready"
    assert judge(WELL).severity is Severity.GOOD


@given(st.sets(st.sampled_from(["not-recording", "no-picker", "differs", "file-not-understood", "entries-lost"])))
def test_the_worst_comes_first_whatever_else_is_wrong(kinds: set[str]) -> None:
    facts = WELL
    for kind in kinds:
        wrong = WRONG[kind][0]
        changed = {n: v for n, v in msgspec.structs.asdict(wrong).items() if v != getattr(WELL, n)}
        facts = msgspec.structs.replace(facts, **changed)
    ranks = [kind for kind, _, _ in RULES if kind in kinds]

    assert [one.kind for one in judge(facts).findings] == ranks


def sample(waiting: int) -> LoadSampled:
    numbers = np.arange(1, 4, dtype=np.int64)
    queues = np.array([waiting, waiting, waiting - 1], dtype=np.int64)
    flat = np.zeros(3, dtype=np.int64)
    return LoadSampled(pack(numbers), 1.0, pack(flat), pack(queues), pack(flat), pack_floats(np.zeros(3)))


TROUBLES: dict[str, tuple[list[Event], str, str]] = {
    "saturated": ([sample(16)], OLD, "is saturated: 47 requests wait on 3 endpoints"),
    "unread": (
        [ScrapeFailed(pack(np.arange(1, 4, dtype=np.int64)), pack(np.full(3, 12_000, dtype=np.int64)))],
        OLD,
        "nobody knows the load of vllm-llama3-8b-instruct: its 3 ready endpoints have not told it for 12.0 s",
    ),
    "partly unread": (
        [ScrapeFailed(pack(np.array([2])), pack(np.array([12_000])))],
        OLD,
        "1 of its 3 ready endpoints cannot be read",
    ),
    "not ready": ([EndpointChanged(4, False), EndpointChanged(5, False)], NEW, "has no ready endpoint"),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_headline_tag_and_strip_of_every_page_say_the_same(tmp_path: Path, name: str) -> None:
    events, about, words = TROUBLES[name]
    with running(tmp_path, 6) as console:

        async def happen() -> None:
            for event in events:
                await console.world.appender.append(event)

        console.call(happen)
        worst = console.ask("/api/v1").json["findings"][0]
        state = {0: "good", 1: "warn", 2: "bad"}[worst["severity"]]

        assert words in worst["sentence"]
        assert worst["subject"] == about
        assert console.ask("/api/v1").json["headline"].lower() == worst["sentence"].lower()
        for address in ("/", "/pools", f"/pools/{about}", "/decisions", "/log", "/help", "/nowhere"):
            assert said(console, address) == (state, worst["sentence"]), address
        row = next(p for p in console.ask("/api/v1/pools").json if f"{p['namespace']}/{p['name']}" == about)
        assert (row["state"], row["word"]) == (state, worst["word"])
        view = console.ask(f"/api/v1/pools/{about}").json["pool"]
        assert (view["state"], view["state_word"]) == (state, worst["word"])
        assert view["sentence"].lower().startswith(worst["sentence"].lower())


def said(console: Running, address: str) -> tuple[str, str]:
    """Colour and words of a page's strip."""
    body = console.ask(address).body
    found = re.search(
        r'<header class="strip (\w+)".*?<i [^>]*></i>(?:<a [^>]*>)?(.*?)(?:</a>|, since)', body, re.DOTALL
    )
    assert found is not None, body
    return found[1], html.unescape(found[2])


def test_lost_entries_are_told_for_a_while(tmp_path: Path) -> None:
    with running(tmp_path, 3) as console:
        watch = console.world.watch
        console.world.feed = FeedStatistics(1, 1, 0, 3, 1, 0)

        assert "entries-lost" in {one["kind"] for one in console.ask("/api/v1").json["findings"]}
    assert watch.lost_lately(3, 1e9) == 0
    assert watch.lost_lately(5, 1e9 + 1) == 2
    assert watch.lost_lately(6, 1e9 + 500) == 3
    assert watch.lost_lately(6, 1e9 + 1000) == 3
    assert watch.lost_lately(6, 1e9 + 1101) == 0


def test_a_page_is_judged_without_a_read_model(tmp_path: Path) -> None:
    with running(tmp_path, 3) as console:

        async def reject() -> None:
            await console.world.appender.append(SourceRejected("a.yaml", 0, "no kind"))

        console.call(reject)
        console.call(close, console)
        for name in ("readmodel.db", "readmodel.db-wal", "readmodel.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)

        assert console.ask("/help").status == 200
        assert console.ask("/decisions").status == 503
        assert "a.yaml: no kind" in console.ask("/decisions").body


async def close(console: Running) -> None:
    console.world.model.close()

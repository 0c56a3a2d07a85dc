"""What others chose is shown by commands without moving the cursor, colouring text or beginning lines."""

import io
import json
from pathlib import Path

from hypothesis import given, strategies as st
from worlds.event_strategies import EVENT_TYPES, full, with_behind
from worlds.logs import some, write
from worlds.system import pointsman

from pointsman.core.events import LogCreated, RequestRouted
from pointsman.core.values.printable import PrintableStream, printable


@given(st.text(st.characters(exclude_categories=[])))
def test_whatever_the_text_what_is_shown_is_one_line_that_can_be_looked_at(text: str) -> None:
    shown = printable(text)

    assert shown.isprintable()
    assert text.isprintable() == (shown == text)


def test_what_terminals_obey_is_shown_by_its_number() -> None:
    assert printable("a\x1b[2K\x1b[1A forged\r\n\u202e\x9b") == (
        "a\\u001b[2K\\u001b[1A forged\\u000d\\u000a\\u202e\\u009b"
    )
    assert json.loads(f'"{printable(chr(0xE0001))}"') == chr(0xE0001)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_a_stream_writes_lines_and_nothing_that_a_terminal_obeys(texts: list[str]) -> None:
    inner = io.StringIO(newline="")
    stream = PrintableStream(inner)
    for text in texts:
        stream.write(text)
    written = inner.getvalue()

    assert all(line.isprintable() for line in written.replace("\r", "").split("\n"))
    assert written.count("\n") == sum(text.count("\n") for text in texts)
    assert written.count("\r") == texts.count("\r")


FORGED = "\n9999 forged\r\x1b[2K\x9b1A\u202e"


def test_no_command_shows_what_a_terminal_obeys_wherever_the_log_holds_it(tmp_path: Path) -> None:
    events = some(80)
    routed = next(event for event in events if isinstance(event, RequestRouted))
    write(tmp_path / "log", [with_behind(event, FORGED) for event in events])
    commands = [
        ("log", "tail", "--lines", "500"),
        ("log", "tail", "--lines", "500", "--output", "json"),
        ("log", "verify"),
        ("audit",),
        ("replay", "verify"),
        ("replay", "explain", routed.request.request_id + FORGED),
        ("replay", "explain", "none such" + FORGED),
    ]
    for words in commands:
        done = pointsman(*words, "--data-dir", tmp_path)
        lines = [*done.stdout.split("\n"), *done.stderr.split("\n")]

        assert "forged" in done.stdout + done.stderr or words[-1] in ("verify", "audit"), (words, done)
        assert "Traceback" not in done.stderr, (words, done.stderr)
        assert [line for line in lines if not line.isprintable() or line.startswith("9999")] == [], words


def test_no_command_lets_the_text_of_any_event_begin_a_line(tmp_path: Path) -> None:
    events = [full(kind, "text" + FORGED) for kind in EVENT_TYPES if kind is not LogCreated]
    write(tmp_path / "log", events)
    tail = ("log", "tail", "--lines", "500")
    for words in (
        tail,
        (*tail, "--output", "json"),
        ("log", "verify"),
        ("replay", "verify"),
        ("replay", "verify", "--output", "json"),
        ("replay", "explain", "text" + FORGED),
        ("audit",),
    ):
        done = pointsman(*words, "--data-dir", tmp_path)
        lines = [*done.stdout.split("\n"), *done.stderr.split("\n")]

        assert "forged" in done.stdout + done.stderr, (words, done)
        assert "Traceback" not in done.stderr, (words, done.stderr)
        assert [line for line in lines if not line.isprintable() or line.startswith("9999")] == [], words

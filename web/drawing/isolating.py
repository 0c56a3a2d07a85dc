"""Text that is written from right to left, or that turns other text around, stays in its place on a page.

Clients and manifests choose names, paths and reasons.  Without care a Hebrew name swaps the numbers beside it,
and one character of direction mirrors the rest of a line.  No template has to think of it: `Isolating` puts a filter
behind every expression of every template.
"""

import re
from collections.abc import Callable, Iterator

from jinja2 import Environment
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from markupsafe import Markup, escape

_TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that are invisible and change the direction of what follows."""
_LETTERS = "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff\U00010800-\U00010fff\U0001e800-\U0001efff]"
"""Blocks of Unicode whose letters and digits are written from right to left."""
_RUN = re.compile(f"{_LETTERS}+(?:[ ._'-]{{1,3}}{_LETTERS}+)*")
"""Words written from right to left, up to the last of them: what stands around them is not theirs to move."""

_SHOWN = ("title", "aria-label")
"""Attributes that are read by people; in every other one a program wants the text as it is."""
_WORDS = ("title", "option")
"""Elements that hold text and no markup."""
_ELEMENT = re.compile("<(/?[a-z0-9]+)")
_ATTRIBUTE = re.compile('([a-z-]+)="[^"]*$')


def turned_to_words(text: str) -> str:
    """The text with each character of direction shown by its number, as JSON escapes it."""
    return _TURNING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def isolated(text: str) -> str | Markup:
    """The text for a place of a page that holds markup: what is written from right to left stands in `<bdi>`."""
    shown = turned_to_words(text)
    if shown.isascii() or not _RUN.search(shown):
        return shown
    return Markup(_RUN.sub(lambda found: f"<bdi>{found[0]}</bdi>", str(escape(shown))))


def filter_at(before: str) -> str:
    """The name of the filter for an expression that stands behind this text of a template; empty for none."""
    tag = before.rfind("<")
    if tag > before.rfind(">"):
        attribute = _ATTRIBUTE.search(before, tag)
        return "turned_to_words" if attribute and attribute[1] in _SHOWN else ""
    opened = _ELEMENT.findall(before)
    if opened and opened[-1] in _WORDS:
        return "turned_to_words"
    return "" if opened and opened[-1] == "textarea" else "isolated"


class Isolating(Extension):
    """Puts the filter of its place behind every expression of a template."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        for function in (turned_to_words, isolated):
            environment.filters[function.__name__] = _of_text(function)

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        """The tokens of a template with the filters between them."""
        before, name, previous = "", "", ""
        for token in stream:
            if token.type == "data":
                before += token.value
            elif (previous, token.value) == ("block", "title"):  # the base puts this block into <title>
                before += "<title>"
            elif token.value == "endblock":
                before += "</title>"
            previous = token.value
            if token.type == "variable_begin":
                name = filter_at(before)
                yield token
                if name:
                    yield Token(token.lineno, "lparen", "(")
                continue
            if token.type == "variable_end" and name:
                yield Token(token.lineno, "rparen", ")")
                yield Token(token.lineno, "pipe", "|")
                yield Token(token.lineno, "name", name)
            yield token


def _of_text(function: Callable[[str], str]) -> Callable[[object], object]:
    """The function for a filter: numbers, and markup that is finished, stay as they are."""
    return lambda value: function(value) if isinstance(value, str) and not isinstance(value, Markup) else value

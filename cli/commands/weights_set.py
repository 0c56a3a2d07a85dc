"""`pointsman weights set`: weights of a route's rule, changed by the console of a running system."""

import argparse
from urllib.parse import quote

from pointsman.cli.arguments import Parser, print_json
from pointsman.cli.commands.console_client import Json, console_option, console_url, get, json_objects, post, told_error
from pointsman.cli.failure import Failure
from pointsman.core.rollout.outcome import ChangeCode
from pointsman.core.rollout.weights import WEIGHT_MAX

WORDS = frozenset({ChangeCode.WEIGHT_RANGE, ChangeCode.NO_WEIGHT_LEFT, ChangeCode.REASON})
"""Codes of refusals for what the command line says, whatever the route's state."""


def run(name: str, words: list[str]) -> int:
    """Ask for the change and print the weights before and after; return 1 where it was not made, or may not have been."""
    parser = Parser(
        name,
        "Change weights of a route's rule as the console's form does: recorded, written where the route comes from, read back.",
        f"{name} --route default/llm-route --reason 'half of it' vllm-old=50 vllm-new=50\n"
        f"{name} --route default/llm-route --rule 2 --reason 'back again' vllm-new=0 --output json",
    )
    parser.add_argument("--route", required=True, type=_route, metavar="NAMESPACE/NAME", help="the HTTPRoute")
    parser.add_argument(
        "--rule", type=_number, default=1, metavar="N", help="which rule, from 1 as the pages count (default: 1)"
    )
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why; goes into the log with the change")
    parser.add_argument(
        "weights",
        nargs="+",
        type=_weight,
        metavar="POOL=WEIGHT",
        help="a backend, by its name (NAME, NAMESPACE/NAME or GROUP/KIND/NAMESPACE/NAME), and its new weight; "
        "those that are not named keep theirs",
    )
    console_option(parser)
    parser.output_option()
    options = parser.parse_args(words)
    url = console_url(options)
    path = f"/api/v1/routes/{quote(options.route)}/rules/{options.rule - 1}/weights"
    form, cookie = _form(url, path)
    body: Json = {
        "token": form.get("token"),
        "version": form.get("version"),
        "weights": _weights(options.weights, json_objects(form, "backends")),
        "reason": options.reason,
    }
    answer = post(url, path, body, cookie)
    told = answer.body
    if not isinstance(told, dict) or "outcome" not in told:
        raise Failure(f"{url}{path} answered {answer.status}: {told_error(told)}")
    done = told["outcome"] == "done"
    if options.output == "json":
        print_json(told)
    elif done:
        _print(told)
    else:
        made = "not known whether the weights were changed" if told["outcome"] == "unknown" else "not changed"
        raise Failure(f"{made}: {told_error(told)}", _code(told))
    return 0 if done else _code(told)


def _code(told: dict[str, Json]) -> int:
    return 2 if told.get("code") in WORDS else 1


def _print(told: dict[str, Json]) -> None:
    print(f"{told.get('name')}: recorded, written and read back")
    for backend in json_objects(told, "backends"):
        before, after = backend.get("before"), backend.get("after")
        print(
            f"  {backend.get('name')}: {before} → {after}" if before != after else f"  {backend.get('name')}: {after}"
        )


def _form(url: str, path: str) -> tuple[dict[str, Json], str]:
    """The weights as they are, and the cookie that goes with their token."""
    answer = get(url, path)
    if answer.status != 200 or not isinstance(answer.body, dict):
        raise Failure(f"{told_error(answer.body)}")
    return answer.body, answer.cookie


def _weights(asked: list[tuple[str, int]], backends: list[dict[str, Json]]) -> dict[str, Json]:
    """The new weights by the console's keys of backends."""
    found: dict[str, Json] = {}
    for name, weight in asked:
        keys = [str(b.get("key")) for b in backends if name in _names(b)]
        known = ", ".join(str(b.get("pool")) for b in backends)
        if not keys:
            raise Failure(f"found no backend {name} in the rule, wanted one of {known}")
        if len(keys) > 1:
            raise Failure(f"{name} is the name of {len(keys)} backends, wanted one of {', '.join(keys)}", 2)
        if keys[0] in found:
            raise Failure(f"found {name} twice, wanted each backend once", 2)
        found[keys[0]] = weight
    return found


def _names(backend: dict[str, Json]) -> set[str]:
    pool = str(backend.get("pool"))
    return {str(backend.get("key")), pool, pool.partition("/")[2]}


def _route(text: str) -> str:
    namespace, _, name = text.partition("/")
    if not namespace or not name or "/" in name:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted NAMESPACE/NAME")
    return text


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 9 and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted the number of a rule, from 1")
    return int(text)


def _weight(text: str) -> tuple[str, int]:
    name, _, weight = text.rpartition("=")
    if not name or not (weight.isascii() and weight.isdigit() and len(weight) <= 9 and int(weight) <= WEIGHT_MAX):
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted POOL=WEIGHT with a weight of 0 to {WEIGHT_MAX:,}")
    return name, int(weight)

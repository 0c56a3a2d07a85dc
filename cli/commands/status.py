"""`pointsman status`: the state of a running system, asked of its console."""

from collections.abc import Callable

from pointsman.cli.arguments import Parser, print_json
from pointsman.cli.commands.console_client import Json, ask, console_option, console_url, json_object, json_objects
from pointsman.cli.failure import Failure
from pointsman.web.drawing import words


def run(name: str, given: list[str]) -> int:
    """Print the state of the system; return 1 where something is wrong with it."""
    parser = Parser(
        name,
        "Show pools, routes with desired and observed weights, the log and the feed of a running system.",
        f"{name}\n{name} --data-dir .pointsman/demo --output json",
    )
    console_option(parser)
    parser.output_option()
    options = parser.parse_args(given)
    found = ask(console_url(options), "/api/v1")
    if not isinstance(found, dict):
        raise Failure("the console's answer is not an object: is it another program's port?")
    if options.output == "json":
        print_json(found)
    else:
        _print(found)
    strip = found.get("strip")
    return 1 if isinstance(strip, dict) and strip.get("trouble") else 0


def _print(found: dict[str, Json]) -> None:
    strip, totals = json_object(found, "strip"), json_object(found, "totals")
    behind = "" if strip.get("trouble") else f"{_said(words.duration, strip.get('behind_seconds'))} behind, "
    print(f"{found.get('headline')}; {behind}log #{strip.get('position')}")
    replayed, differing = strip.get("replayed"), strip.get("differing")
    if isinstance(replayed, int) and isinstance(differing, int) and replayed:
        print(f"verified {words.count(replayed - differing)} of the last {words.count(replayed)} decisions")
    rate = _said(words.rate, totals.get("requests_per_second"))
    print(f"{rate} requests/s, {totals.get('refused')} refused in the last minute")
    for pool in json_objects(found, "pools"):
        print(
            f"pool {pool.get('namespace')}/{pool.get('name')}: {pool.get('ready')} of {pool.get('members')} ready, "
            f"{_said(words.count, pool.get('waiting'))} waiting, KV {_said(words.percent, pool.get('kv_cache_share'))}, "
            f"{pool.get('in_flight')} in flight, {_said(words.rate, pool.get('requests_per_second'))} requests/s"
        )
    for rule in json_objects(found, "routes"):
        print(f"{rule.get('name')}: {rule.get('evidence')}")
        for backend in json_objects(rule, "backends"):
            desired = _said(words.percent, backend.get("desired_share"))
            observed = _said(words.percent, backend.get("observed_share"))
            print(f"  {backend.get('name')}: weight {backend.get('weight')}, {desired} desired, {observed} observed")


def _said(tell: Callable[[float], str], value: Json) -> str:
    """A number in words; `unknown` where there is none."""
    return tell(value) if isinstance(value, int | float) else "unknown"

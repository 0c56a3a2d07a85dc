"""`pointsman status`: the state of a running system, asked of its console."""

from pointsman.cli.arguments import Parser, print_json
from pointsman.cli.commands.console_client import Json, ask, console_option, console_url, json_object, json_objects
from pointsman.cli.failure import Failure


def run(name: str, words: list[str]) -> int:
    """Print the state of the system; return 1 where something is wrong with it."""
    parser = Parser(
        name,
        "Show pools, routes with desired and observed weights, the log and the feed of a running system.",
        f"{name}\n{name} --data-dir .pointsman/demo --output json",
    )
    console_option(parser)
    parser.output_option()
    options = parser.parse_args(words)
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
    behind = "" if strip.get("trouble") else f"{strip.get('behind')} behind, "
    print(f"{found.get('headline')}; {behind}log #{strip.get('position')}")
    if strip.get("verified"):
        print(f"verified {strip['verified']} decisions")
    print(f"{totals.get('rate')} requests/s, {totals.get('refused')} refused in the last minute")
    for pool in json_objects(found, "pools"):
        print(
            f"pool {pool.get('namespace')}/{pool.get('name')}: {pool.get('ready')} of {pool.get('members')} ready, "
            f"{pool.get('waiting')} waiting, KV {pool.get('kv')}, {pool.get('in_flight')} in flight, "
            f"{pool.get('rate')} requests/s"
        )
    for rule in json_objects(found, "routes"):
        print(f"{rule.get('name')}: {rule.get('evidence')}")
        for backend in json_objects(rule, "backends"):
            desired, observed = backend.get("desired"), backend.get("observed")
            print(f"  {backend.get('name')}: weight {backend.get('weight')}, {desired} desired, {observed} observed")

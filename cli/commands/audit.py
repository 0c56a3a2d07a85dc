"""`pointsman audit`: everything that can be checked of a log, and one sentence about it."""

import sys
import time
from pathlib import Path

import msgspec

from pointsman.cli.arguments import Parser, log_directory, print_json
from pointsman.cli.commands.log_verify import heads_of, print_chain
from pointsman.cli.commands.replay_verify import (
    UNCHECKED,
    Proof,
    against_option,
    parts_of,
    print_decisions,
    print_rest,
    prove,
)
from pointsman.cli.failure import Failure
from pointsman.eventlog.errors import LogCorruptError, NotKeptError
from pointsman.eventlog.opening import open_reader, verify_chain
from pointsman.eventlog.stores.chain_walk import ChainReport

SOUND = "sound and complete"


def run(name: str, words: list[str]) -> int:
    """Check chain, snapshots, drops, entries and decisions.

    Return 0 where all of it holds, 1 where something does not, and 3 where something could not be checked.
    """
    parser = Parser(
        name,
        "Check all that can be checked of a log, which may be in use: its hash chain and snapshots, what was dropped,\n"
        "that no entry is missing, that each request has one end, and that every decision comes out the same again.",
        f"{name}\n{name} .pointsman/demo --head 1200:5f2c... --against .pointsman/demo/logs/access.log",
    )
    parser.add_argument("directory", nargs="?", type=Path, help="data directory, or the log's own")
    parser.data_option()
    parser.add_argument("--head", action="append", default=[], metavar="POSITION:DIGEST", help="as for `log verify`")
    against_option(parser)
    parser.output_option()
    options = parser.parse_args(words)
    directory, started = log_directory(options.directory or options.data_dir), time.monotonic()
    try:
        chain = verify_chain(directory, heads_of(options.head))
        with open_reader(directory) as reader:
            proof = prove(reader, None, None, options.against) if chain.sound else None
    except (LogCorruptError, NotKeptError, OSError) as error:
        raise Failure(str(error)) from error
    code = _code(chain, proof)
    said = _sentence(chain, proof, code)
    if options.output == "json":
        parts = {} if proof is None else {"decisions": msgspec.to_builtins(proof.decisions), **parts_of(proof)}
        chained = msgspec.to_builtins(chain, builtin_types=(bytes,), str_keys=True)
        print_json({"verdict": said, "code": code, "chain": chained, **parts})
        return code
    print_chain(chain)
    if proof is not None:
        print_decisions(proof.decisions, time.monotonic() - started)
        print_rest(proof)
    sys.stdout.flush()
    print(said)
    return code


def _code(chain: ChainReport, proof: Proof | None) -> int:
    if proof is None or not chain.sound:
        return 1
    return max(proof.code, UNCHECKED if chain.unchecked else 0, key=lambda code: (code == 1, code))


def _sentence(chain: ChainReport, proof: Proof | None, code: int) -> str:
    """What a person can sign."""
    log = f"log {chain.log_id}, positions {chain.first} to {chain.head}, head {chain.digest.hex()[:16]}"
    if proof is None:
        return f"NOT SOUND: {log}: the hash chain does not hold, so nothing else was looked at"
    decisions = proof.decisions
    if code == 1:
        complete, against = proof.complete, proof.against
        found = [
            f"{decisions.different} decisions differ" if decisions.different else "",
            f"{complete.problems} entries or ends are not as they must be" if complete and complete.problems else "",
            f"{against.without_decision} served requests have no decision"
            if against and against.without_decision
            else "",
            f"{against.without_line} decisions are not in the access log" if against and against.without_line else "",
            f"{against.elsewhere} requests went elsewhere than decided" if against and against.elsewhere else "",
        ]
        return f"NOT SOUND AND COMPLETE: {log}: {', '.join(filter(None, found))}"
    told = (
        f"; {proof.complete.lost} entries of pickers are told as lost" if proof.complete and proof.complete.lost else ""
    )
    if code == UNCHECKED:
        skipped, heads = decisions.skipped.total(), len(chain.unchecked)
        return f"NOTHING WRONG FOUND, NOT ALL CHECKED: {log}: {skipped} decisions and {heads} heads could not be checked{told}"
    return f"{SOUND}: {log}: {decisions.checked} decisions come out the same{told}"

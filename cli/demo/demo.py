"""`pointsman demo`: the whole system on this machine, with simulated model servers."""

import argparse
import os
import re
import shutil
import socket
import sys
import uuid
from pathlib import Path

import msgspec

from pointsman.cli.arguments import DEFAULT_DATA, Parser
from pointsman.cli.failure import Failure
from pointsman.cli.supervising.assembly import Deployment, supervise
from pointsman.cli.supervising.child import ChildPlan, Role, our_command
from pointsman.cli.supervising.console_place import CONSOLE_PORT, tunnel, url_of
from pointsman.cli.supervising.ports import bind_nearby
from pointsman.cli.supervising.supervisor import Listening
from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy
from pointsman.core.processes.settings import ControlSettings, GatewaySettings, KeepLimits, PickerOptions
from pointsman.web.loopback import listen

TRIES = 100
"""Number of ports that are tried, one after the other, where the wanted one is busy."""

DRAIN = 0.0
"""Seconds of draining: none, as nothing takes the demo out of a list; requests under way get the usual time to end."""


def run(name: str, words: list[str]) -> int:
    """Run until Ctrl-C."""
    options = _parser(name).parse_args(words)
    if options.reset:
        return _reset(options.data_dir)
    if options.gateway == "envoy" and isinstance(missing := find_envoy(), EnvoyMissing):
        raise Failure(missing.reason)
    with Deployment(options.data_dir, logs=True) as deployment:
        manifests = _manifests(deployment.data / "manifests")
        servers = _server_port(manifests)
        if servers is not None:
            print(f"port {servers[0]} is in use: the simulated servers listen on {servers[1]}")
        return _run(options, deployment, manifests)


def _run(options: argparse.Namespace, deployment: Deployment, manifests: Path) -> int:
    metrics = bind_nearby("127.0.0.1", options.metrics_port, TRIES)
    health = bind_nearby("127.0.0.1", options.health_port, TRIES)
    console = listen("127.0.0.1", options.console_port, TRIES)
    gateway = None
    if options.gateway == "envoy":
        # Envoy binds the port itself; that another process takes it in between is not expected.
        with bind_nearby("127.0.0.1", options.port, TRIES) as free:
            gateway = deployment.gateway_at("127.0.0.1", free.getsockname()[1])
    for what, wanted, found in (
        ("the gateway", options.port, options.port if gateway is None else gateway.port),
        ("metrics", options.metrics_port, metrics.getsockname()[1]),
        ("the console", options.console_port, console.getsockname()[1]),
        ("the health service", options.health_port, health.getsockname()[1]),
    ):
        if found != wanted:
            print(f"port {wanted} is in use: {what} listens on {found}")
    control = ControlSettings(
        data=str(deployment.data),
        feed=deployment.feed,
        manifests=str(manifests),
        metrics=metrics.fileno(),
        gateway=gateway,
        console=console.fileno(),
        keep=KeepLimits(options.keep_age, options.keep_size),
    )
    plans = [_simulators(deployment, manifests), deployment.control(control), deployment.picker(PickerOptions())]
    if gateway is not None:
        plans.append(deployment.envoy(gateway))
        if options.rate > 0:
            plans.append(_clients(deployment, gateway.port, options.rate))
    listening = Listening(health=health, gateway=None if gateway is None else (gateway.address, gateway.port))
    log = deployment.data / "log"
    print(f"data directory  {deployment.data}{' (going on with its log)' if log.exists() else ''}", flush=True)

    def started(ports: dict[str, int]) -> None:
        print(
            _greeting(options, gateway, [*_where(console, metrics, deployment), *_pickers(ports)]),
            flush=True,
        )

    return supervise(plans, listening, DRAIN, lambda line: print(line, flush=True), started)


def _where(console: socket.socket, metrics: socket.socket, deployment: Deployment) -> list[str]:
    through = tunnel(console.getsockname()[1], os.environ)
    return [
        f"console         {url_of(console)}",
        *([f"                from where you came: {through}, then open that address there"] if through else []),
        f"metrics         http://127.0.0.1:{metrics.getsockname()[1]}/metrics",
        f"manifests       {deployment.data / 'manifests'} (change a weight in route.yaml and save)",
        f"output          {deployment.logs}",
    ]


def _pickers(ports: dict[str, int]) -> list[str]:
    return [f"picker          127.0.0.1:{port} for {pool}" for pool, port in sorted(ports.items())]


def _greeting(options: argparse.Namespace, gateway: GatewaySettings | None, lines: list[str]) -> str:
    if gateway is None:
        return "\n".join([*lines, "", "No gateway runs: point yours at the pickers.", "", "Ctrl-C ends everything."])
    url = f"http://127.0.0.1:{gateway.port}"
    request_id = str(uuid.uuid4())
    body = {
        "model": "food-review-1",
        "prompt": "Write as if you were a critic: San Francisco",
        "max_tokens": 30,
        "temperature": 0,
    }
    where = "" if options.data_dir == _default_data() else f" --data-dir {options.data_dir}"
    return "\n".join(
        [
            f"gateway         {url}",
            *lines,
            f"traffic         {options.rate:g} requests a second" if options.rate > 0 else "traffic         none",
            "",
            "Send a request:",
            "",
            (
                f"  curl -si {url}/v1/completions -H 'content-type: application/json' -H 'x-request-id: {request_id}'"
                f" -d '{msgspec.json.encode(body).decode()}'"
            ),
            "",
            "See why it went where it went, and decide every request again:",
            "",
            f"  {_our_name()} replay explain {request_id}{where}",
            f"  {_our_name()} replay verify{where}",
            "",
            "Ctrl-C ends everything.",
        ]
    )


def _our_name() -> str:
    """The word with which a user can type this command again."""
    typed = Path(sys.argv[0])
    if shutil.which("pointsman") == str(typed.absolute()):
        return "pointsman"
    return str(typed.relative_to(Path.cwd())) if typed.is_relative_to(Path.cwd()) else str(typed)


# --- what runs beside the system ------------------------------------------------------------------


def _simulators(deployment: Deployment, manifests: Path) -> ChildPlan:
    log = deployment.data / "logs" / "requests.jsonl"
    command = our_command("sim", "--manifests", str(manifests), "--request-log", str(log))
    return ChildPlan("simulators", Role.SERVER, command, log=deployment.log_of("simulators"))


def _clients(deployment: Deployment, port: int, rate: float) -> ChildPlan:
    command = our_command("traffic", f"http://127.0.0.1:{port}", "--rate", f"{rate:g}")
    return ChildPlan("traffic", Role.CLIENTS, command, log=deployment.log_of("traffic"))


# --- manifests --------------------------------------------------------------------------------------


def _shipped() -> Path:
    """The demo's manifests: inside an installed package, or in the checkout."""
    here = Path(__file__).resolve().parent
    for candidate in (here / "manifests", here.parents[1] / "deploy" / "demo"):
        if candidate.is_dir():
            return candidate
    raise Failure(f"found no manifests beside {here}, wanted those that come with Pointsman: install it again")


def _manifests(directory: Path) -> Path:
    """The demo's own copy, which may be changed; made by its first run."""
    if not directory.is_dir():
        new = directory.with_name("manifests.new")
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(_shipped(), new)
        new.rename(directory)
    return directory


def _server_port(manifests: Path) -> tuple[int, int] | None:
    """Give the simulated servers another port where theirs is in use, and return the former and the new one."""
    pods, pools = manifests / "pods.yaml", manifests / "pools.yaml"
    if not pods.exists() or not pools.exists():
        return None
    text = pods.read_text()
    addresses = re.findall(r"podIP: (\S+)", text)
    ports = {int(port) for port in re.findall(r"containerPort: (\d+)", text)}
    if len(ports) != 1:
        return None  # somebody changed the ports in the manifests, so they are left alone
    [former] = ports
    for port in range(former, former + TRIES):
        if all(_free(address, port) for address in addresses):
            break
    else:
        raise Failure(f"found no free port from {former} on for simulated servers at {', '.join(addresses)}")
    if port == former:
        return None
    pods.write_text(re.sub(rf"containerPort: {former}\b", f"containerPort: {port}", text))
    pools.write_text(re.sub(rf"(targetPorts:\s+- number: ){former}\b", rf"\g<1>{port}", pools.read_text()))
    return former, port


def _free(address: str, port: int) -> bool:
    try:
        bind_nearby(address, port, 1).close()
    except OSError:
        return False
    return True


def _reset(data: Path) -> int:
    if not data.exists():
        print(f"nothing to forget: there is no {data}")
        return 0
    if not (data / "run").is_dir():
        raise Failure(f"found no data of a demo in {data}, wanted its data directory: nothing was removed")
    with Deployment(data, logs=False):  # not while it is in use
        pass
    shutil.rmtree(data)
    print(f"removed {data}")
    return 0


def _default_data() -> Path:
    return Path(DEFAULT_DATA) / "demo"


def _parser(name: str) -> Parser:
    parser = Parser(
        name,
        "Run two pools of three simulated model servers behind a real Envoy, with traffic, on this machine.",
        f"{name} --rate 50\n{name} --reset",
    )
    parser.add_argument("--rate", type=_rate, default=20.0, help="requests a second, 0 for none (default: 20)")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", default=_default_data(), help="(default: .pointsman/demo)"
    )
    parser.add_argument(
        "--gateway", choices=("envoy", "none"), default="envoy", help="none: without Envoy and traffic (default: envoy)"
    )
    parser.add_argument("--port", type=int, default=8080, help="of the gateway, or the next free one (default: 8080)")
    parser.add_argument(
        "--console-port", type=int, default=CONSOLE_PORT, metavar="PORT", help="likewise (default: 8090)"
    )
    parser.add_argument("--metrics-port", type=int, default=9090, metavar="PORT", help="likewise (default: 9090)")
    parser.add_argument("--health-port", type=int, default=9003, metavar="PORT", help="likewise (default: 9003)")
    parser.keep_options("2Gi")
    parser.add_argument("--reset", action="store_true", help="remove what earlier runs recorded, and end")
    return parser


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 100_000:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted 0 to 100000 requests a second")
    return rate

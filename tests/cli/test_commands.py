"""The commands as an operator meets them: help, version, and errors in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from worlds.ports import free_port

from pointsman.cli.bench.table import Table
from pointsman.cli.main import COMMANDS

CONFIG = """\
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: max-score-picker
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: queue-scorer
  - pluginRef: max-score-picker
"""


def pointsman(*words: str | Path, home: Path | None = None, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "pointsman.cli", *map(str, words)]
    # Whoever runs the tests may have a cluster.
    env = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
    env |= {} if home is None else {"HOME": str(home)}
    return subprocess.run(
        command, cwd=home, input=text, capture_output=True, text=True, timeout=30, check=False, env=env
    )


def one_line(found: subprocess.CompletedProcess[str], code: int) -> str:
    """The error of a command that failed as it should."""
    assert found.returncode == code, found.stderr
    assert "Traceback" not in found.stderr
    assert found.stderr.count("\n") == 1, found.stderr
    return found.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_has_an_example(name: str) -> None:
    found = pointsman(*name.split(), "--help")

    assert found.returncode == 0
    assert f"example:\n  pointsman {name}" in found.stdout


def test_the_version_is_that_of_the_package() -> None:
    assert pointsman("--version").stdout == "pointsman 0.1.0\n"


def test_an_unknown_command_is_told_the_nearest() -> None:
    assert "did you mean serve?" in one_line(pointsman("sevre"), 2)
    assert "wanted tail or retain or verify; did you mean log tail?" in one_line(pointsman("log", "trail"), 2)
    assert "did you mean replay verify?" in one_line(pointsman("replay", "verfy", "--from", "3"), 2)
    assert "did you mean config check?" in one_line(pointsman("confg", "check", "x.yaml"), 2)
    assert "found nothing more, wanted set\n" in one_line(pointsman("weights"), 2)


def test_the_address_of_the_console_is_told_before_anything_is_ready(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    ports = {name: free_port("127.0.0.1") for name in ("console-port", "metrics-port", "health-port")}
    flags = [f"--{name}={port}" for name, port in ports.items()]
    command = [sys.executable, "-P", "-m", "pointsman.cli", "serve", "--manifests=manifests", "--data-dir=data", *flags]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            first = process.stderr.readline()
        finally:
            process.terminate()
            process.communicate()

    assert f"console on http://127.0.0.1:{ports['console-port']}," in first


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["log", "tail"], "wanted a data directory"),
        (["log", "verify", "nowhere"], "wanted a data directory"),
        (["replay", "verify"], "wanted a data directory"),
        (["replay", "explain", "x"], "wanted a data directory"),
        (["config", "check", "absent.yaml"], "absent.yaml: No such file"),
        (["sim", "--manifests", "nowhere"], "found no Pod"),
        (["epp", "--pool-name", "x", "--config-file", "absent.yaml"], "--config-file absent.yaml: No such file"),
    ],
)
def test_what_is_not_there_is_named(words: list[str], wanted: str, tmp_path: Path) -> None:
    assert wanted in one_line(pointsman(*words, home=tmp_path), 1)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["epp"], "wanted --manifests DIR"),
        (["epp", "--pool-name", "x"], "or a cluster: --kubeconfig FILE, KUBECONFIG"),
        (["epp", "--pool-name", "x", "--kubeconfig", "nowhere"], "--kubeconfig: found no file nowhere"),
        (["epp", "--manifests", ".", "--kubeconfig", "x"], "found --manifests and --kubeconfig, wanted one of them"),
        (["serve", "--kubernetes"], "or a cluster: --kubeconfig FILE, KUBECONFIG"),
        (["serve", "--kubernetes", "--kubeconfig", "nowhere"], "--kubeconfig: found no file nowhere"),
        (["serve", "--kubernetes", "--manifests", "."], "not allowed with argument --kubernetes"),
        (["serve", "--manifests", ".", "--namespace", "a"], "found no --kubernetes, wanted it beside them"),
        (["epp", "--manifests", "nowhere"], "found no directory nowhere"),
        (["epp", "--grpc-prot=1"], "did you mean 'grpc-port'"),
        (["serve"], "--manifests"),
        (["serve", "--manifests", "nowhere"], "found no directory nowhere"),
        (["demo", "--rate", "fast"], "wanted 0 to 100000"),
        (["traffic", "ftp://x"], "wanted http://host:port"),
        (["sim", "--listen", "8000"], "wanted ADDRESS:PORT"),
        (["sim", "--set", "speed=3"], "wanted one of max_num_seqs"),
        (["log", "verify", "--head", "12"], "wanted a data directory"),
        (["bench", "--directory", "nowhere"], "found no directory nowhere"),
        (["bench", "quick"], "unrecognized arguments: quick"),
    ],
)
def test_wrong_words_are_told_what_was_wanted(words: list[str], wanted: str, tmp_path: Path) -> None:
    found = pointsman(*words, home=tmp_path)

    assert wanted in one_line(found, 1 if words[0] == "log" else 2)


def test_a_right_configuration_is_shown_as_it_would_be_in_force(tmp_path: Path) -> None:
    found = pointsman("config", "check", "-", text=CONFIG)

    assert found.returncode == 0
    assert "queue-scorer" in found.stdout
    assert found.stdout.endswith("right\n")


def test_a_wrong_configuration_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(CONFIG.replace("- type: queue-scorer", "- type: queue-scorre"))

    said = one_line(pointsman("config", "check", path), 1)

    assert f"{path}, line 4" in said
    assert "did you mean 'queue-scorer'" in said


def test_all_errors_of_a_configuration_are_told_as_json_where_that_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(
        CONFIG.replace("- type: queue-scorer", "- type: queue-scorre").replace("max-score-picker", "maximum")
    )
    told = pointsman("config", "check", path)
    found = pointsman("config", "check", path, "--output", "json")
    report = json.loads(found.stdout)

    assert (told.returncode, found.returncode, found.stderr) == (1, 1, "")
    assert [error["line"] for error in report["errors"]] == [4, 5]
    assert [error["place"] for error in report["errors"]] == ["plugins[0].type", "plugins[1].type"]
    assert told.stderr.splitlines() == [
        f"pointsman: {path}, line {error['line']}: {error['message']}" for error in report["errors"]
    ]


def test_text_that_is_no_yaml_is_told_with_its_line() -> None:
    assert "line 2" in one_line(pointsman("config", "check", "-", text="a: 1\n b: [\n"), 1)


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    from pointsman.cli.supervising.ports import bind_everywhere

    (tmp_path / "manifests").mkdir()
    with bind_everywhere(0) as taken:
        port = taken.getsockname()[1]
        found = pointsman("epp", "--pool-name=x", "--manifests=manifests", f"--grpc-port={port}", home=tmp_path)

    assert f"--grpc-port: found port {port} unusable" in found.stderr
    assert found.returncode == 1


def test_the_benchmark_measures_every_row_in_time_and_says_what_was_allowed(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "pointsman.cli", "bench", "--quick", "--output", "json"]
    command += ["--directory", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)

    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    report = json.loads(found.stdout)
    rows = {row["what"]: row for row in report["rows"]}
    assert all(row["measured"] > 0 for row in rows.values())
    assert {name.partition(",")[0].partition(":")[0].split()[0] for name in rows} == {
        "without",
        "schedule()",
        "replay",
        "log",
        "scrape",
    }
    assert rows["schedule(), 1000 endpoints, 64 blocks"]["budget"] == 60
    assert report["missed"] == sum(row["met"] is False for row in rows.values())
    assert list(tmp_path.iterdir()) == []


def test_the_table_tells_what_is_met_and_what_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table()
    table.line("time", 5, 4.25, "ms")
    table.line("more time", 5, 1234.5, "ms")
    table.line("rate", 100, 99, "/s", least=True)
    table.line("no budget", None, 0.333, "x")

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [
        ["time", "≤", "5", "4.25", "ms", "met"],
        ["more", "time", "≤", "5", "1,234", "ms", "missed"],
        ["rate", "≥", "100", "99.0", "/s", "missed"],
        ["no", "budget", "0.33", "x"],
    ]
    assert table.missed == 2

"""Lists the fields of a custom resource definition: `python derive.py CRD.yaml VERSION > fields.txt`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, list[str]]]:
    """Each field that holds no others, with the values it may have where these are listed."""
    if "properties" in schema:
        for name, inner in sorted(schema["properties"].items()):
            yield from leaves(inner, f"{path}.{name}" if path else name)
    elif schema.get("type") == "array":
        yield from leaves(schema["items"], f"{path}[]")
    else:
        yield path, [str(value) for value in schema.get("enum", ())]


def main(file: str, version: str) -> None:
    """Print the fields of the spec, a line each."""
    crd = yaml.safe_load(Path(file).read_text())
    annotations = crd["metadata"]["annotations"]
    bundle = annotations.get("gateway.networking.k8s.io/bundle-version") or annotations.get(
        "inference.networking.k8s.io/bundle-version"
    )
    print(f"# {crd['spec']['names']['kind']} {version}, bundle {bundle}, derived by derive.py; Apache License 2.0.")
    [schema] = [one["schema"]["openAPIV3Schema"] for one in crd["spec"]["versions"] if one["name"] == version]
    for path, values in leaves(schema["properties"]["spec"], "spec"):
        print(" ".join((path, *values)))


if __name__ == "__main__":
    main(*sys.argv[1:])

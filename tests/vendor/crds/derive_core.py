"""Lists the fields of a kind of Kubernetes' core, from the Python client's types: `python derive_core.py Pod > pod.txt`."""

import re
import sys
from collections.abc import Iterator

import kubernetes
from kubernetes.client import models

_LIST, _MAPPING = re.compile(r"[Ll]ist\[(.+)\]"), re.compile(r"[Dd]ict.+|object")


def leaves(kind: str, path: str) -> Iterator[str]:
    """Each field that holds no others, in the places of a kind."""
    if (inner := _LIST.fullmatch(kind)) is not None:
        yield from leaves(inner[1], f"{path}[]")
    elif _MAPPING.fullmatch(kind) is not None or not hasattr(models, kind):
        yield path
    else:
        model = getattr(models, kind)
        for name, inner_kind in sorted(model.openapi_types.items()):
            field = model.attribute_map[name]
            yield from leaves(inner_kind, f"{path}.{field}" if path else field)


def main(kind: str) -> None:
    """Print the fields, a line each."""
    print(f"# {kind} v1, kubernetes client {kubernetes.__version__}, derived by derive_core.py; Apache License 2.0.")
    for path in leaves(f"V1{kind}", ""):
        print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])

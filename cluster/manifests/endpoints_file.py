"""File discovery: one file that lists the endpoints of one pool, as llm-d-router's `file-discovery` reads it.

The file is taken whole or not at all.
"""

from pointsman.cluster.objects.fields import Part, shown
from pointsman.cluster.objects.manifest import Manifest
from pointsman.cluster.objects.wanted import NAMESPACE, NAMESPACE_FORM, Member, Wanted, address_of
from pointsman.cluster.objects.yaml_document import DocumentError, load_documents
from pointsman.core.events import PoolApplied

ENDPOINTS_MAX = 10_000
"""Endpoints of one file: ten times as many as the scheduler is measured with."""

POOL = "epp"
"""Name of the pool where nobody gives one, as in llm-d-router."""


class EndpointsFile(Manifest, frozen=True):
    """What an endpoints file says."""

    members: tuple[Member, ...] = ()


def read_endpoints(source: str, data: bytes, pool: str) -> EndpointsFile:
    """Return the endpoints of `pool` (`namespace/name`); `DocumentError` with the line where the file is wrong."""
    documents = load_documents(data)
    if len(documents) != 1 or not isinstance(documents[0].value, dict):
        found = shown(documents[0].value) if len(documents) == 1 else f"{len(documents)} documents"
        raise DocumentError(
            documents[-1].line if documents else 0, f"found {found}, wanted one with a list `endpoints`"
        )
    warnings: list[str] = []
    root = Part.of(documents[0], warnings)
    if not isinstance(root.value.get("endpoints"), list):
        raise root.error("endpoints", f"found {shown(root.value.get('endpoints'))}, wanted a list of endpoints")
    members: list[Member] = []
    lines: dict[tuple[str, str, int], int] = {}
    for part in root.parts("endpoints", ENDPOINTS_MAX):
        member = _member(part, pool, source)
        if member.identity in lines:
            message = f"endpoint {member.uid}:{member.port} stands in line {lines[member.identity]} already"
            raise DocumentError(part.line(), message)
        lines[member.identity] = part.line()
        members.append(member)
    root.done()
    return EndpointsFile(source, (), tuple(warnings[:100]), tuple(members))


def _member(part: Part, pool: str, source: str) -> Member:
    name = part.text("name", "")
    namespace = part.text("namespace", "default", pattern=NAMESPACE, form=NAMESPACE_FORM)
    written = part.text("address")
    try:
        address = address_of(written)
    except ValueError:
        raise part.error("address", f"found {shown(written)}, wanted an IP address") from None
    name = name or address  # as the Go EPP takes it
    port = _port(part)
    labels = part.labels("labels")
    part.done()
    return Member(pool, f"{namespace}/{name}", namespace, name, address, port, 0, labels, True, source)


def _port(part: Part) -> int:
    """Return the port, which the format has as text; a number is meant the same way."""
    if not isinstance(written := part.value.get("port"), str):
        return part.number("port", 1, 65535)
    text = part.text("port")
    if not text.isascii() or not text.isdigit() or len(text) > 5 or not 1 <= int(text) <= 65535:
        raise part.error("port", f"found {shown(written)}, wanted a port from 1 to 65,535")
    return int(text)


def wanted_of_endpoints(file: EndpointsFile, pool: str) -> Wanted:
    """Return what the file wants: the pool with its members, and nothing else."""
    ports = tuple(sorted({member.port for member in file.members}))
    return Wanted((PoolApplied(pool, {}, ports, source=file.source),), file.members)

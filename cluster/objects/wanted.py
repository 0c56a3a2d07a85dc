"""What sources say the world should be, before it is compared with what the log says."""

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

import msgspec

from pointsman.core.events import AppliedEvent, PoolApplied

NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
NAME_FORM = "a name of lower-case letters, digits, '-' and '.', 253 characters at most"
NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
NAMESPACE_FORM = "a name of lower-case letters, digits and '-', 63 characters at most"

ACTIVE_PORTS = ("llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports")
"""Annotations that limit a pod to some of its pool's ports; the first that is present counts."""


class Pod(msgspec.Struct, frozen=True):
    """A pod, as far as membership depends on it."""

    namespace: str
    name: str
    uid: str
    """UID from the manifest; empty where it has none."""
    address: str
    """IP address; empty before the pod has one."""
    ready: bool
    labels: dict[str, str]
    active_ports: frozenset[int] | None = None
    """Ports that are active; None where all are."""
    deleted: bool = False
    """Whether the pod is being terminated."""
    source: str = ""
    """File that the pod stands in."""
    version: str = ""
    """Version of the object at its API server; empty where it comes from a file."""


class Member(msgspec.Struct, frozen=True):
    """An endpoint that should be there."""

    pool: str
    uid: str
    """UID of the pod, or its `namespace/name` where it has none."""
    namespace: str
    name: str
    address: str
    port: int
    rank: int
    labels: dict[str, str]
    ready: bool
    source: str = ""
    """File that names the pod; empty where the log does not say."""
    version: str = ""
    """The pod's resourceVersion, recorded with what else changed: another one alone is no change."""

    @property
    def identity(self) -> tuple[str, str, int]:
        """What tells members apart: two of the same identity are one."""
        return self.pool, self.uid, self.port


class Wanted(msgspec.Struct, frozen=True):
    """The whole of what a source says."""

    objects: tuple[AppliedEvent, ...]
    """Objects of all kinds, each as it should be."""
    members: tuple[Member, ...] = ()


def address_of(text: str) -> str:
    """Return an IP address in its usual spelling; `ValueError` for other texts."""
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    return str(ip_address(text))


def members_of(pool: PoolApplied, pods: Iterable[Pod]) -> list[Member]:
    """Return one member for each of the pool's ports on each pod that it selects; a pod without address has none."""
    namespace = pool.pool.partition("/")[0]
    selected = pool.selector.items()
    found: list[Member] = []
    for pod in pods:
        if pod.namespace != namespace or pod.deleted or not pod.address or not selected <= pod.labels.items():
            continue
        uid = pod.uid or f"{pod.namespace}/{pod.name}"
        found.extend(
            Member(
                pool.pool,
                uid,
                pod.namespace,
                pod.name,
                pod.address,
                port,
                rank,
                pod.labels,
                pod.ready,
                pod.source,
                pod.version,
            )
            for rank, port in enumerate(pool.target_ports)
            if pod.active_ports is None or port in pod.active_ports
        )
    return found


def active_ports(annotations: Mapping[str, str]) -> frozenset[int] | None:
    """Return the ports that the annotations leave; items count by their leading digits, others not at all."""
    for key in ACTIVE_PORTS:
        if (written := annotations.get(key)) is not None:
            digits = (re.match(r"[0-9]{1,9}", item.strip()) for item in written.split(","))
            return frozenset(int(found[0]) for found in digits if found)
    return None

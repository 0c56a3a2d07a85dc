"""The kinds that are read from an API server, and where it has them."""

import msgspec


class Resource(msgspec.Struct, frozen=True):
    """A kind of one API group."""

    kind: str
    plural: str
    """Name in the paths of the API."""
    group: str
    """Group of the API; empty for the core."""
    versions: tuple[str, ...]
    """Versions that can be read, the first that the server has counts."""

    def path(self, version: str, namespace: str) -> str:
        """Path of the list in a namespace, or in all where it is empty."""
        base = f"/apis/{self.group}/{version}" if self.group else f"/api/{version}"
        return f"{base}/namespaces/{namespace}/{self.plural}" if namespace else f"{base}/{self.plural}"

    @property
    def words(self) -> str:
        """Name as `kubectl` takes it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


class Scope(msgspec.Struct, frozen=True):
    """A part of the cluster that is followed."""

    resource: Resource
    namespace: str
    """Namespace; empty for all."""
    name: str = ""
    """Name of the one object that is followed; empty for all."""

    @property
    def words(self) -> str:
        """The scope as messages name it."""
        where = f"in namespace {self.namespace}" if self.namespace else "in all namespaces"
        return f"{self.resource.words} {self.name + ' ' if self.name else ''}{where}"

    def holds(self, name: str) -> bool:
        """Whether an object of this kind, as `namespace/name`, is in the scope."""
        namespace, _, own = name.partition("/")
        return self.namespace in ("", namespace) and self.name in ("", own)


PODS = Resource("Pod", "pods", "", ("v1",))
POOLS = Resource("InferencePool", "inferencepools", "inference.networking.k8s.io", ("v1",))
POOLS_X = Resource("InferencePool", "inferencepools", "inference.networking.x-k8s.io", ("v1alpha2",))
OBJECTIVES = Resource("InferenceObjective", "inferenceobjectives", "llm-d.ai", ("v1alpha2",))
OBJECTIVES_X = Resource("InferenceObjective", "inferenceobjectives", "inference.networking.x-k8s.io", ("v1alpha2",))
ROUTES = Resource("HTTPRoute", "httproutes", "gateway.networking.k8s.io", ("v1", "v1beta1"))
GRANTS = Resource("ReferenceGrant", "referencegrants", "gateway.networking.k8s.io", ("v1", "v1beta1"))

PRECEDENCE = (PODS, POOLS, POOLS_X, OBJECTIVES, OBJECTIVES_X, ROUTES, GRANTS)
"""All of them.  Where two groups have an object of the same kind and name, that of the group named first counts."""

OF_A_POOL = (POOLS, POOLS_X, OBJECTIVES, OBJECTIVES_X)
"""Kinds, besides its Pods, that the picker of one pool reads: those to which the charts of the field give it a right."""

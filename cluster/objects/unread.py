"""Kinds of our API groups that are not read: each is told of, with what happens instead of what it asks for."""

from pointsman.cluster.objects.fields import Part

INSTEAD = {
    "Gateway": "the gateway listens where the flags of `serve` say, on one port without TLS, and serves every HTTPRoute",
    "GatewayClass": "there is one gateway, Pointsman's own",
    "ListenerSet": "the gateway listens where the flags of `serve` say",
    "GRPCRoute": "the gateway routes by HTTPRoutes alone",
    "TCPRoute": "the gateway routes by HTTPRoutes alone",
    "TLSRoute": "the gateway routes by HTTPRoutes alone",
    "UDPRoute": "the gateway routes by HTTPRoutes alone",
    "BackendTLSPolicy": "the gateway speaks to servers without TLS",
    "InferenceModel": "requests for its model name keep that name, and their priority is 0",
    "InferenceModelRewrite": "requests keep the model that they name",
}
"""What happens in the place of an object, by its kind."""

ELSEWHERE = ("EndpointPickerConfig",)
"""Kinds of files that a flag names, wherever they stand."""


def warn_unread(root: Part, kind: str) -> None:
    """Say of an object of one of our groups that it has no effect."""
    if kind in ELSEWHERE:
        return
    instead = INSTEAD.get(kind, "objects of this kind are not read")
    root.warn("kind", f"a {kind} has no effect: {instead}")

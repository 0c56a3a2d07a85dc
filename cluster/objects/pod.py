"""What a Pod says of membership: its name, its labels, where it answers, whether it is ready.

All other fields are for those who run it; docs/compatibility.md says of each why it makes no difference here.
"""

from pointsman.cluster.objects.fields import Part, shown
from pointsman.cluster.objects.wanted import Pod, active_ports, address_of

CONDITION = ("type", "status")
"""Fields of a condition that are read."""
CONDITION_UNREAD = ("lastProbeTime", "lastTransitionTime", "message", "observedGeneration", "reason")
STATUS_UNREAD = (
    "allocatedResources",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "extendedResourceClaimStatus",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "message",
    "nodeAllocatableResourceClaimStatuses",
    "nominatedNodeName",
    "observedGeneration",
    "phase",
    "podIPs",
    "qosClass",
    "reason",
    "resize",
    "resourceClaimStatuses",
    "resources",
    "startTime",
    "volumeHealth",
)
SPEC_UNREAD = (
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers",
    "evictionResponders",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "hostname",
    "hostnameOverride",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "schedulingGroup",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
)
_READY = {"True": True, "False": False, "Unknown": False}


def read_pod(root: Part, metadata: Part, name: str, source: str, *, by_hand: bool) -> Pod:
    """Return the Pod; `by_hand` says that people wrote it, who mistype, and no API server, which may know more fields."""
    namespace, _, own = name.partition("/")
    labels = metadata.labels("labels")
    ports = active_ports(metadata.labels("annotations"))
    deleted = metadata.value.get("deletionTimestamp") is not None
    status = root.part("status")
    address, ready = ("", False) if status is None else (_address(status), _ready(status, by_hand=by_hand))
    uid = metadata.text("uid", "")
    if by_hand:
        _warn_of_others(root, status)
    if status is None or not address:
        root.warn("status", f"pod {name} has no status.podIP: it is no endpoint")
    elif ready is None:
        root.warn("status", f"pod {name} has no condition of type Ready: it gets no traffic")
    version = "" if by_hand else str(metadata.value.get("resourceVersion") or "")
    return Pod(namespace, own, uid, address, bool(ready), labels, ports, deleted, source, version)


def _warn_of_others(root: Part, status: Part | None) -> None:
    """Warn of fields of the two parts that no Pod has."""
    spec = root.part("spec")
    if spec is not None:
        spec.ignore(*SPEC_UNREAD)
        spec.done()
    if status is not None:
        status.ignore(*STATUS_UNREAD)
        status.done()


def _address(status: Part) -> str:
    written = status.text("podIP", "")
    if not written:
        return ""
    try:
        return address_of(written)
    except ValueError:
        raise status.error("podIP", f"found {shown(written)}, wanted an IP address") from None


def _ready(status: Part, *, by_hand: bool) -> bool | None:
    """Whether the condition Ready is true; None where there is none."""
    found: bool | None = None
    for condition in status.parts("conditions", 1000):
        if by_hand:
            condition.ignore(*CONDITION, *CONDITION_UNREAD)
            condition.done()
        if found is None and condition.value.get("type") == "Ready":
            # YAML makes a truth of the text that a hand leaves without quotes.
            written = str(condition.value.get("status"))
            found = _READY.get(written)
            if found is None:
                found = False
                told = shown(condition.value.get("status"))
                condition.warn("status", f"found {told}, wanted 'True', 'False' or 'Unknown': it gets no traffic")
    return found

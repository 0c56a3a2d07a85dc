"""`flowControl`: checked, so that a mistake is found, and without effect but for its saturation detector."""

from pointsman.core.config.declarations import Declarations
from pointsman.core.config.document import ConfigPath, FlowControl, PriorityBand, Remarks


def check_flow_control(remarks: Remarks, plugins: Declarations, flow: FlowControl | None) -> None:
    """Refuse what is wrong in it, and warn that it has no effect."""
    if flow is None:
        return
    at: ConfigPath = ("flowControl",)
    remarks.check_quantity(flow.max_bytes, (*at, "maxBytes"))
    remarks.check_quantity(flow.max_requests, (*at, "maxRequests"))
    remarks.check_duration(flow.default_request_ttl, (*at, "defaultRequestTTL"))
    remarks.check_duration(flow.no_endpoint_request_ttl, (*at, "noEndpointRequestTTL"))
    priorities: set[int] = set()
    bands: list[tuple[ConfigPath, PriorityBand | None]] = [
        ((*at, "defaultPriorityBand"), flow.default_priority_band),
        ((*at, "defaultNegativePriorityBand"), flow.default_negative_priority_band),
    ]
    for i, band in enumerate(flow.priority_bands or ()):
        path: ConfigPath = (*at, "priorityBands", i)
        if band.priority in priorities:
            raise remarks.error(path, f"two priority bands have priority {band.priority}")
        priorities.add(band.priority)
        bands.append((path, band))
    for path, given in bands:
        if given is not None:
            _check_band(remarks, plugins, given, path)
    limit = flow.usage_limit_policy_plugin_ref
    _check_policy(plugins, limit, "static-usage-limit-policy", (*at, "usageLimitPolicyPluginRef"))
    if flow != FlowControl(saturation_detector=flow.saturation_detector):
        remarks.warn(at, "flowControl has no effect beside its saturationDetector: feature gate 'flowControl' is off")


def _check_band(remarks: Remarks, plugins: Declarations, band: PriorityBand, path: ConfigPath) -> None:
    remarks.check_quantity(band.max_bytes, (*path, "maxBytes"))
    remarks.check_quantity(band.max_requests, (*path, "maxRequests"))
    _check_policy(plugins, band.fairness_policy_ref, "global-strict-fairness-policy", (*path, "fairnessPolicyRef"))
    _check_policy(plugins, band.ordering_policy_ref, "fcfs-ordering-policy", (*path, "orderingPolicyRef"))


def _check_policy(plugins: Declarations, name: str, default: str, path: ConfigPath) -> None:
    """A policy is declared, but for the default one, which is named without a declaration."""
    if name and name != default:
        plugins.refer(name, path)

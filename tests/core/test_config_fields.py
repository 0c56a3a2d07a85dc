"""Each field of an EndpointPickerConfig, of any version, does what the documents say: none is dropped in silence."""

from typing import Any

import msgspec
import pytest
import yaml
from worlds.configured import lines_of
from worlds.crd_fields import Example, check_fields, fields_of, rows

from pointsman.core.config.document import ConfigDocument, ConfigPath, place_of
from pointsman.core.config.parse import ConfigError, EffectiveConfig, PickingFlags, parse_config

ROUTER, GIE = "llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1"
BAND = {
    "priority": 3,
    "maxBytes": "1G",
    "maxRequests": 10,
    "fairnessPolicyRef": "global-strict-fairness-policy",
    "orderingPolicyRef": "fcfs-ordering-policy",
}


def config(version: str = ROUTER, **members: object) -> Example:
    return {"apiVersion": version, "kind": "EndpointPickerConfig", **members}


QUEUE = {"type": "queue-scorer", "name": "q"}
EXAMPLES: list[Example] = [
    config(
        featureGates=["dataLayer", "prepareDataPlugins", "enableLegacyMetrics", "haPopulateNonLeaderDatastore=false"],
        plugins=[
            QUEUE,
            {"type": "prefix-cache-scorer", "parameters": {"blockSizeTokens": 32}},
            {"type": "utilization-detector", "name": "d", "parameters": {"queueDepthThreshold": 9}},
            {"type": "metrics-data-source", "name": "m", "parameters": {"path": "/other"}},
            {"type": "core-metrics-extractor", "name": "c", "parameters": {"engineLabelKey": "e"}},
            {"type": "file-discovery", "name": "f", "parameters": {"path": "/tmp/endpoints.yaml"}},
        ],
        schedulingProfiles=[
            {
                "name": "x",
                "plugins": [{"pluginRef": "q", "weight": 2}, {"pluginRef": "prefix-cache-scorer", "weight": 3}],
            }
        ],
        dataLayer={
            "sources": [{"pluginRef": "m", "extractors": [{"pluginRef": "c"}]}],
            "discovery": {"pluginRef": "f"},
            "crossReplicaSyncInterval": "200ms",
        },
        flowControl={
            "maxBytes": "1Gi",
            "maxRequests": 100,
            "defaultRequestTTL": "30s",
            "noEndpointRequestTTL": "20s",
            "defaultPriorityBand": BAND,
            "defaultNegativePriorityBand": BAND,
            "priorityBands": [BAND],
            "usageLimitPolicyPluginRef": "static-usage-limit-policy",
            "saturationDetector": {"pluginRef": "d"},
            "enableEviction": True,
        },
        requestHandler={"parsers": [{"pluginRef": "anthropic-parser"}]},
    ),
    config(plugins=[QUEUE], dataLayer={"injectDefaults": False}),
    config(
        GIE,
        plugins=[
            {"type": "utilization-detector", "name": "d", "parameters": {"queueDepthThreshold": 9}},
            {"type": "metrics-data-source", "name": "m", "parameters": {"path": "/other"}},
            {"type": "core-metrics-extractor", "name": "c", "parameters": {"engineLabelKey": "e"}},
        ],
        data={"sources": [{"pluginRef": "m", "extractors": [{"pluginRef": "c"}]}]},
        saturationDetector={"pluginRef": "d"},
        parser={"pluginRef": "anthropic-parser"},
    ),
    config(
        GIE,
        saturationDetector={
            "queueDepthThreshold": 9,
            "kvCacheUtilThreshold": 0.5,
            "metricsStalenessThreshold": "300ms",
        },
    ),
    config(dataLayer={"peerDiscovery": {"pluginRef": "f"}}),
    config(dataLayer={"crossReplicaSyncerPluginRef": "f"}),
]


def in_force(found: EffectiveConfig) -> str:
    """What decides, scrapes and discovers: what a configuration is obeyed in."""
    profiles = [
        (profile.name, [(p.plugin, found.parameters(p.plugin), p.weight) for p in profile.plugins])
        for profile in found.profiles
    ]
    parts = (
        profiles,
        found.parameters(found.saturation_detector),
        found.parsers,
        found.metrics_source(),
        found.metrics_extractor(),
        found.discovery(),
        found.prefix(),
    )
    return repr(parts)


def read(example: Example) -> tuple[str, tuple[str, ...]]:
    """What the document puts in force, and what is warned of, by the places that stand in the warnings' lines."""
    text = yaml.safe_dump(example, default_flow_style=False)
    root = yaml.compose(text)
    assert root is not None
    lines = lines_of(root)
    try:
        found = parse_config(yaml.safe_load(text), lines, PickingFlags())
    except ConfigError as error:
        return f"error: {error.message}", ()
    warnings = []
    for warning in found.warnings:
        number, _, words = warning.removeprefix("line ").partition(": ")
        warnings += [f"{place_of(path)}: {words}" for path, line in lines.items() if line == int(number)]
    return in_force(found), tuple(warnings)


def test_each_field_of_a_configuration_does_what_the_documents_say() -> None:
    effects = {field: effect for field, effect, *_ in rows("plugins.md", "## Fields of an EndpointPickerConfig")}
    roots = {field.partition(".")[0].removesuffix("[]") for field in fields_of("endpointpickerconfig")}

    assert check_fields("endpointpickerconfig", effects, *EXAMPLES, read=read, roots=sorted(roots)) == []


def test_the_gate_whose_feature_is_not_built_is_refused_and_may_be_off() -> None:
    assert read(config(featureGates=["flowControl"]))[0].startswith("error: feature gate 'flowControl' is known")
    assert read(config(featureGates=["flowControl=false"])) == read(config())


def known(kind: Any, at: str = "") -> list[str]:
    """The fields that a document may have here."""
    found = []
    for field in msgspec.structs.fields(kind):
        place = f"{at}.{field.encode_name}".removeprefix(".")
        inner = field.type
        while arguments := [a for a in getattr(inner, "__args__", ()) if a is not type(None)]:
            if getattr(inner, "__origin__", None) is list:
                place += "[]"
            elif getattr(inner, "__origin__", None) is dict:
                break
            inner = arguments[0]
        nested = isinstance(inner, type) and issubclass(inner, msgspec.Struct)
        found += known(inner, place) if nested else [place]
    return found


def test_what_may_stand_in_a_document_is_what_some_version_knows() -> None:
    # `data` is the old name of `dataLayer`, whose later members it may have as well.
    found = {field for field in known(ConfigDocument) if not field.startswith("data.")}

    assert found == {field for field in fields_of("endpointpickerconfig") if not field.startswith("data.")}


def test_a_field_that_no_version_knows_is_refused_with_its_line() -> None:
    for place in ((), ("plugins", 0), ("schedulingProfiles", 0, "plugins", 0), ("dataLayer",), ("flowControl",)):
        example: Any = msgspec.json.decode(msgspec.json.encode(EXAMPLES[0]))
        holder = example
        for step in place:
            holder = holder[step]
        holder["notAField"] = 1
        path: ConfigPath = (*place, "notAField")
        text = yaml.safe_dump(example)
        root = yaml.compose(text)
        assert root is not None

        with pytest.raises(ConfigError, match="unknown field 'notAField'") as caught:
            parse_config(yaml.safe_load(text), lines_of(root), PickingFlags())
        assert caught.value.line == lines_of(root)[path]

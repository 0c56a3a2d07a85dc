"""EndpointPickerConfig: what is accepted, what is put in, and what an error says."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from strategies import config_documents

from pointsman.core.config import (
    DEFAULT_CONFIG,
    ConfigError,
    EffectiveConfig,
    PickingFlags,
    PrefixParameters,
    decode_config,
    parse_config,
)
from pointsman.core.document import Path as Place
from pointsman.core.known import KNOWN_TYPES
from pointsman.core.plugin import REGISTER
from pointsman.core.plugins.file_discovery import FileDiscovery
from pointsman.core.plugins.metrics_data_source import MetricsDataSource
from pointsman.core.plugins.utilization_detector import UtilizationDetector
from pointsman.core.quantities import Duration
from pointsman.core.scheduler import compile_profile

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"


def lines_of(node: yaml.Node, path: Place = ()) -> dict[Place, int]:
    """The line of every place in a YAML document."""
    lines = {path: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines |= lines_of(value, (*path, key.value))
            lines[(*path, key.value)] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines |= lines_of(value, (*path, i))
    return lines


def parsed(text: str, flags: PickingFlags | None = None) -> EffectiveConfig:
    root = yaml.compose(text)
    assert root is not None
    return parse_config(yaml.safe_load(text), lines_of(root), flags or PickingFlags())


def wrong(text: str) -> tuple[int, str]:
    """The line and message of the error."""
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    return caught.value.line, caught.value.message


def placed(config: EffectiveConfig) -> list[tuple[str, float]]:
    return [(plugin.plugin, plugin.weight) for plugin in config.profiles[0].plugins]


# --- whole documents --------------------------------------------------------------------------------


@given(config_documents())
def test_a_configuration_survives_its_bytes(document: dict[str, Any]) -> None:
    config = parse_config(document, {}, PickingFlags(emit_endpoint_scores=True))

    again = decode_config(config.encode())

    assert again == config
    assert again.encode() == config.encode()
    assert compile_profile(again).config == config


def test_default_configuration_is_that_of_the_go_epp() -> None:
    assert placed(DEFAULT_CONFIG) == [
        ("queue-scorer", 2.0),
        ("kv-cache-utilization-scorer", 2.0),
        ("prefix-cache-scorer", 3.0),
        ("max-score-picker", 1.0),
    ]
    assert DEFAULT_CONFIG.saturation_detector == "utilization-detector"
    assert DEFAULT_CONFIG.prefix() == PrefixParameters(64, 256, 31250, True)
    assert DEFAULT_CONFIG.warnings == ()


GUIDE = Path(__file__).parent / "rollout-guide"


def test_decision_tree_configuration_of_the_rollout_guide_runs_as_it_stands() -> None:
    config = parsed((GUIDE / "default-plugins.yaml").read_text())

    assert config.warnings == ()
    assert placed(config) == [("low-latency-filter", 1.0), ("random-picker", 1.0)]
    assert set(compile_profile(config).types) == {
        "decision-tree-filter",
        "least-kv-cache-filter",
        "least-queue-filter",
        "lora-affinity-filter",
        "low-queue-filter",
        "random-picker",
        "utilization-detector",
    }


def test_scorer_configuration_of_the_rollout_guide_runs_as_it_stands() -> None:
    config = parsed((GUIDE / "plugins-v2.yaml").read_text())

    assert config.warnings == ()
    assert placed(config) == [
        ("queue-scorer", 1.0),
        ("kv-cache-scorer", 1.0),
        ("prefix-cache-scorer", 1.0),
        ("max-score-picker", 1.0),
    ]
    assert config.prefix() == PrefixParameters(64, 256, 31250, False)


BENCH = (
    HEAD
    + """plugins:
- {name: disc, type: file-discovery, parameters: {path: /tmp/endpoints.yaml, watchFile: true}}
- {type: queue-scorer}
- {type: kv-cache-utilization-scorer}
- {type: prefix-cache-scorer}
- {name: sat, type: utilization-detector, parameters: {metricsStalenessThreshold: 10s}}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
dataLayer:
  discovery: {pluginRef: disc}
"""
)


def test_configuration_of_the_comparison_bench_runs_as_it_stands() -> None:
    config = parsed(BENCH)

    assert config.discovery() == FileDiscovery("/tmp/endpoints.yaml", True)
    assert placed(config)[-1] == ("max-score-picker", 1.0)
    assert config.saturation_detector == "utilization-detector"  # `sat` is declared, not referred to
    assert config.metrics_source() == MetricsDataSource()


def test_nothing_declared_is_a_random_choice_without_scorers() -> None:
    config = parsed(HEAD)

    assert placed(config) == [("max-score-picker", 1.0)]
    assert config.discovery() is None
    assert config.prefix() is None


def test_without_profiles_all_filters_scorers_and_pickers_join_the_default_one() -> None:
    config = parsed(
        HEAD + "plugins: [{type: random-picker}, {type: queue-scorer}, {type: openai-parser}, {type: low-queue-filter}]"
    )

    assert config.profiles[0].name == "default"
    assert [name for name, _ in placed(config)] == ["random-picker", "queue-scorer", "low-queue-filter"]


def test_a_declared_picker_is_the_one_of_a_profile_that_has_none() -> None:
    config = parsed(
        HEAD
        + "plugins: [{type: random-picker, name: any}, {type: queue-scorer}]\n"
        + "schedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer}]}]"
    )

    assert placed(config) == [("queue-scorer", 1.0), ("any", 1.0)]


# --- saturation, prefix, flags ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "saturationDetector: {queueDepthThreshold: 9, kvCacheUtilThreshold: 0.5, metricsStalenessThreshold: 1s}",
        (
            "plugins: [{type: utilization-detector, name: d, parameters: {queueDepthThreshold: 9, kvCacheUtilThreshold: 0.5,"
            " metricsStalenessThreshold: 1s}}]\nsaturationDetector: {pluginRef: d}"
        ),
        (
            "plugins: [{type: utilization-detector, name: d, parameters: {queueDepthThreshold: 9, kvCacheUtilThreshold: 0.5,"
            " metricsStalenessThreshold: 1000ms}}]\nflowControl: {saturationDetector: {pluginRef: d}}"
        ),
    ],
)
def test_saturation_detector_of_every_version_is_understood(text: str) -> None:
    config = parsed(HEAD + text)

    assert config.parameters(config.saturation_detector) == UtilizationDetector(9, 0.5, Duration(1.0))
    assert config.warnings == ()


def test_a_detector_that_defaults_add_is_no_filter() -> None:
    config = parsed(HEAD + "saturationDetector: {queueDepthThreshold: 9}")

    assert placed(config) == [("max-score-picker", 1.0)]


def test_environment_sets_thresholds_only_where_the_file_has_no_detector() -> None:
    flags = PickingFlags(queue_depth_threshold=7, kv_cache_util_threshold=0.4, metrics_staleness_threshold=3.0)

    without = parsed(HEAD, flags)
    declared = parsed(HEAD + "plugins: [{type: utilization-detector}]", flags)

    assert without.parameters("utilization-detector") == UtilizationDetector(7, 0.4, Duration(3.0))
    assert declared.parameters("utilization-detector") == UtilizationDetector()
    assert without.flags == flags


@pytest.mark.parametrize(
    ("parameters", "shape"),
    [
        ("hashBlockSize: 128", PrefixParameters(128, 256, 31250, False)),
        ("blockSize: 32", PrefixParameters(32, 256, 31250, True)),
        ("blockSizeTokens: 32", PrefixParameters(128, 256, 31250, True)),
        ("blockSizeTokens: 32, autoTune: false", PrefixParameters(128, 256, 31250, False)),
        ("maxPrefixTokensToMatch: 320", PrefixParameters(64, 20, 31250, True)),
        ("maxPrefixBlocksToMatch: 2048, lruCapacityPerServer: 10", PrefixParameters(64, 256, 10, True)),
        ("maxPrefixBlocksToMatch: 0, lruCapacityPerServer: -1, blockSize: 0", PrefixParameters()),
    ],
)
def test_prefix_parameters_of_every_version_are_understood(parameters: str, shape: PrefixParameters) -> None:
    config = parsed(HEAD + f"plugins: [{{type: prefix-cache-scorer, parameters: {{{parameters}}}}}]")

    assert config.prefix() == shape
    assert len(config.warnings) == ("2048" in parameters)


def test_a_declared_producer_shapes_the_prefix_index() -> None:
    producer = "{type: approx-prefix-cache-producer, parameters: {blockSizeTokens: 64, autoTune: false}}"
    config = parsed(HEAD + f"plugins: [{{type: prefix-cache-scorer}}, {producer}]")

    assert config.prefix() == PrefixParameters(256, 256, 31250, False)


# --- what has no effect is told -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("flowControl: {maxBytes: 10Gi, defaultRequestTTL: 30s}", "line 3: flowControl has no effect beside"),
        ("featureGates:\n- prepareDataPlugins", "line 4: feature gate 'prepareDataPlugins' has no effect"),
        ("dataLayer: {injectDefaults: false}", "line 3: no metrics source"),
        (
            "plugins: [{type: openai-parser}]\nschedulingProfiles:\n- name: p\n  plugins:\n  - pluginRef: openai-parser",
            "line 7: plugin 'openai-parser' is no filter, scorer or picker",
        ),
        (
            (
                "plugins: [{type: low-queue-filter}]\nschedulingProfiles:\n- name: p\n  plugins:\n"
                "  - {pluginRef: low-queue-filter, weight: 2}"
            ),
            "line 7: the weight of 'low-queue-filter' has no effect",
        ),
    ],
)
def test_what_has_no_effect_is_a_warning(text: str, warning: str) -> None:
    (found,) = parsed(HEAD + text).warnings

    assert found.startswith(warning)


# --- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("pluginz: []", 3, "unknown field 'pluginz' in the document, did you mean 'plugins'?"),
        ("plugins:\n- tpye: queue-scorer", 4, "unknown field 'tpye' in plugins[0], did you mean 'type'?"),
        ("plugins:\n- name: x", 4, "plugins[0] has no type"),
        ("plugins:\n- type: queue-scorrer", 4, "unknown plugin type 'queue-scorrer', did you mean 'queue-scorer'?"),
        ("plugins:\n- type: latency-scorer", 4, "plugin type 'latency-scorer' is known and not yet available"),
        (
            "plugins:\n- type: low-queue-filter\n  parameters:\n    treshold: 1",
            6,
            "unknown field 'treshold' in plugins[0].parameters, did you mean 'threshold'?",
        ),
        (
            "plugins:\n- type: low-queue-filter\n  parameters: {threshold: many}",
            5,
            "plugins[0].parameters.threshold is 'many', wanted a whole number",
        ),
        (
            "plugins:\n- type: utilization-detector\n  parameters: {metricsStalenessThreshold: 10}",
            5,
            "plugins[0].parameters.metricsStalenessThreshold: found 10, wanted a duration such as '200ms' or '1m30s'",
        ),
        (
            "plugins:\n- type: utilization-detector\n  parameters: {kvCacheUtilThreshold: 80}",
            5,
            "plugins[0].parameters: kvCacheUtilThreshold is 80.0, wanted above 0, at most 1",
        ),
        ("plugins:\n- type: file-discovery", 4, "path is missing in plugins[0].parameters"),
        (
            "plugins: [{type: queue-scorer}]\nplugins2: 1",
            4,
            "unknown field 'plugins2' in the document, did you mean 'plugins'?",
        ),
        (
            "plugins:\n- type: queue-scorer\n- type: kv-cache-scorer\n  name: queue-scorer",
            6,
            "two plugins are named 'queue-scorer'; give one of them another name",
        ),
        (
            "plugins: [{type: queue-scorer}]\nschedulingProfiles:\n- name: p\n  plugins:\n  - pluginRef: queue-scorerr",
            7,
            "no plugin is named 'queue-scorerr', did you mean 'queue-scorer'?",
        ),
        (
            "plugins: [{type: queue-scorer}]\nschedulingProfiles:\n- name: p\n  plugins:\n  - weight: 1",
            7,
            "schedulingProfiles[0].plugins[0].pluginRef has no pluginRef",
        ),
        (
            (
                "plugins: [{type: random-picker}, {type: max-score-picker}]\nschedulingProfiles:\n- name: p\n"
                "  plugins: [{pluginRef: random-picker}, {pluginRef: max-score-picker}]"
            ),
            5,
            "profile 'p' has two pickers, 'random-picker' and 'max-score-picker', wanted one",
        ),
        (
            "schedulingProfiles:\n- name: a\n- name: b",
            5,
            "2 scheduling profiles, wanted 1 for single-profile-handler",
        ),
        ("schedulingProfiles:\n- plugins: []", 4, "schedulingProfiles[0] has no name"),
        ("featureGates: [flowControll]", 3, "unknown feature gate 'flowControll', did you mean 'flowControl'?"),
        ("featureGates: [flowControl]", 3, "feature gate 'flowControl' is known and not yet available"),
        ("featureGates: [flowControl=maybe]", 3, "feature gate flowControl is 'maybe', wanted true or false"),
        ("flowControl: {maxBytes: -1}", 3, "flowControl.maxBytes: found -1, wanted 0 or above"),
        (
            "flowControl: {defaultRequestTTL: soon}",
            3,
            "flowControl.defaultRequestTTL: found 'soon', wanted a duration such as '200ms' or '1m30s'",
        ),
        ("flowControl:\n  priorityBands:\n  - priority: 1\n  - priority: 1", 6, "two priority bands have priority 1"),
        (
            "saturationDetector: {pluginRef: utilization-detector, queueDepthThreshold: 1}",
            3,
            "found pluginRef and queueDepthThreshold, wanted pluginRef or thresholds",
        ),
        (
            "plugins: [{type: queue-scorer}]\nsaturationDetector: {pluginRef: queue-scorer}",
            4,
            "plugin 'queue-scorer' of type 'queue-scorer' is no detector",
        ),
        ("parser: {pluginRef: vertexai-parser}", 3, "plugin type 'vertexai-parser' is known and not yet available"),
        (
            "plugins: [{type: queue-scorer}]\ndataLayer: {discovery: {pluginRef: queue-scorer}}",
            4,
            "plugin 'queue-scorer' of type 'queue-scorer' is no discovery",
        ),
        (
            (
                "plugins:\n- type: decision-tree-filter\n  parameters:\n    current: {pluginRef: queue-scorer}\n"
                "- type: queue-scorer"
            ),
            5,
            "plugin 'queue-scorer' of type 'queue-scorer' is no filter",
        ),
        (
            "plugins:\n- type: decision-tree-filter\n  parameters:\n    current: {pluginRef: decision-tree-filter}",
            5,
            "decision trees refer to each other in a circle: decision-tree-filter > decision-tree-filter",
        ),
        (
            "plugins:\n- type: decision-tree-filter\n  parameters:\n    current: {}",
            6,
            "plugins[0].parameters.current: wanted exactly one of pluginRef and decisionTree",
        ),
        (
            "plugins:\n- type: prefix-cache-scorer\n  parameters: {hashBlockSize: 64, blockSize: 64}",
            5,
            "found more than one of hashBlockSize, blockSize and blockSizeTokens, wanted one",
        ),
        (
            (
                "plugins: [{type: queue-scorer}]\nschedulingProfiles:\n- name: p\n"
                "  plugins: [{pluginRef: queue-scorer, weight: .inf}]"
            ),
            6,
            "weight of 'queue-scorer' is inf, wanted -1e12 to 1e12",
        ),
    ],
)
def test_an_error_says_the_line_what_was_found_and_what_was_wanted(text: str, line: int, message: str) -> None:
    assert wrong(HEAD + text) == (line, message)


def test_only_the_two_api_versions_and_the_kind_are_accepted() -> None:
    assert wrong("kind: EndpointPickerConfig")[1].startswith("apiVersion is missing, wanted one of")
    assert wrong("apiVersion: llm-d.ai/v1alpha2\nkind: EndpointPickerConfig") == (
        1,
        "apiVersion is 'llm-d.ai/v1alpha2', did you mean 'llm-d.ai/v1alpha1'?",
    )
    assert wrong("apiVersion: llm-d.ai/v1alpha1\nkind: Pod") == (2, "kind is 'Pod', wanted 'EndpointPickerConfig'")
    assert parsed("apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: EndpointPickerConfig").warnings == ()


@pytest.mark.parametrize("value", [None, [], "text", 7, {1: 2}, {"plugins": [[]]}])
def test_what_is_no_configuration_at_all_is_a_config_error(value: object) -> None:
    with pytest.raises(ConfigError):
        parse_config(value, {}, PickingFlags())


@pytest.mark.parametrize("type", sorted(KNOWN_TYPES - set(REGISTER)))
def test_every_known_type_that_is_not_built_says_so(type: str) -> None:
    assert wrong(HEAD + f"plugins: [{{type: {type}}}]")[1] == f"plugin type {type!r} is known and not yet available"


def test_every_type_that_is_built_is_one_that_is_known() -> None:
    assert set(REGISTER) <= KNOWN_TYPES

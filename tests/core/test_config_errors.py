"""Every error of a configuration says the line, what was found and what was wanted."""

import pytest
from worlds.configured import HEAD, parsed, wrong

from pointsman.core.config.known_names import UNBUILT_TYPES
from pointsman.core.config.parse import (
    ConfigError,
    PickingFlags,
    parse_config,
)


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
            (
                "plugins:\n- type: prefix-cache-scorer\n  parameters:\n    mode: cache_tracking\n"
                "    indexerConfig: {tokenProcessorConfig: {blockSize: 64}}"
            ),
            6,
            "parameter 'mode' of prefix-cache-scorer is known and not yet available",
        ),
        (
            "plugins:\n- type: prefix-cache-scorer\n  parameters:\n    indexerConfig: {}",
            6,
            "parameter 'indexerConfig' of prefix-cache-scorer is known and not yet available",
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
            (
                "plugins:\n- type: core-metrics-extractor\n  parameters:\n    engineConfigs:\n    - name: own\n"
                "      queuedRequestsSpec: waiting{kind}"
            ),
            7,
            "plugins[0].parameters.engineConfigs[0]: found 'waiting{kind}', wanted label=value between the braces",
        ),
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


@pytest.mark.parametrize("type", sorted(UNBUILT_TYPES))
def test_every_known_type_that_is_not_built_says_so(type: str) -> None:
    assert wrong(HEAD + f"plugins: [{{type: {type}}}]")[1] == f"plugin type {type!r} is known and not yet available"

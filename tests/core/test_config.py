"""EndpointPickerConfig: what is accepted, what is put in, and what an error says."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from worlds.configured import HEAD, parsed, placed
from worlds.strategies import config_documents

from pointsman.core.config.parse import (
    DEFAULT_CONFIG,
    PickingFlags,
    PrefixParameters,
    decode_config,
    parse_config,
)
from pointsman.core.deciding.scheduler import compile_profile
from pointsman.core.plugins.file_discovery import FileDiscovery
from pointsman.core.plugins.metrics_data_source import MetricsDataSource
from pointsman.core.plugins.utilization_detector import UtilizationDetector
from pointsman.core.values.quantities import Duration


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
    assert DEFAULT_CONFIG.prefix() == PrefixParameters(64, auto_tune=True)
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
    assert config.prefix() == PrefixParameters(64, 256, auto_tune=False)


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
        ("hashBlockSize: 128", PrefixParameters(128, auto_tune=False)),
        ("blockSize: 32", PrefixParameters(32, auto_tune=True)),
        ("blockSizeTokens: 32", PrefixParameters(128, auto_tune=True)),
        ("blockSizeTokens: 32, autoTune: false", PrefixParameters(128, auto_tune=False)),
        ("maxPrefixTokensToMatch: 320", PrefixParameters(64, 0, 320)),
        ("maxPrefixBlocksToMatch: 2048, lruCapacityPerServer: 10", PrefixParameters(64, 2048, 0, 10)),
        ("maxPrefixBlocksToMatch: 0, lruCapacityPerServer: -1, blockSize: 0", PrefixParameters()),
    ],
)
def test_prefix_parameters_of_every_version_are_understood(parameters: str, shape: PrefixParameters) -> None:
    config = parsed(HEAD + f"plugins: [{{type: prefix-cache-scorer, parameters: {{{parameters}}}}}]")

    assert config.prefix() == shape
    assert config.warnings == ()


def test_a_declared_producer_shapes_the_prefix_index() -> None:
    producer = "{type: approx-prefix-cache-producer, parameters: {blockSizeTokens: 64, autoTune: false}}"
    config = parsed(HEAD + f"plugins: [{{type: prefix-cache-scorer}}, {producer}]")

    assert config.prefix() == PrefixParameters(256, auto_tune=False)


def place(type: str, parameters: str) -> str:
    return HEAD + f"plugins:\n- type: {type}\n  parameters:\n" + "".join(f"    {p}\n" for p in parameters.split(", "))


PREFIX_TYPES = ("prefix-cache-scorer", "approx-prefix-cache-producer")


@pytest.mark.parametrize("type", PREFIX_TYPES)
@pytest.mark.parametrize(
    ("parameters", "warning"),
    [
        ("maxPrefixTokensToMatch: 131072", None),
        ("maxPrefixTokensToMatch: 131072, blockSizeTokens: 64", None),
        ("maxPrefixBlocksToMatch: 2048", None),
        ("maxPrefixTokensToMatch: 0", None),
        (
            "maxPrefixTokensToMatch: 0, maxPrefixBlocksToMatch: 0",
            "line 6: no limit is not to be had: at most 361072 tokens of a prompt are matched",
        ),
        (
            "maxPrefixTokensToMatch: 400000",
            "line 6: maxPrefixTokensToMatch is 400000; at most 361072 tokens of a prompt are matched",
        ),
        (
            "autoTune: true, blockSizeTokens: 64, maxPrefixTokensToMatch: 400000",
            "line 8: maxPrefixTokensToMatch is 400000; at most 361072 tokens of a prompt are matched where a block has 64",
        ),
        ("autoTune: false, blockSizeTokens: 64, maxPrefixTokensToMatch: 400000", None),
        (
            "autoTune: false, blockSizeTokens: 64, maxPrefixTokensToMatch: 2000000",
            "line 8: maxPrefixTokensToMatch is 2000000; at most 1048576 tokens of a prompt are matched where a block has 256",
        ),
        (
            "maxPrefixBlocksToMatch: 30000",
            "line 6: maxPrefixBlocksToMatch is 30000; at most 361072 tokens of a prompt are matched",
        ),
        (
            "maxPrefixTokensToMatch: 5000, maxPrefixBlocksToMatch: 10",
            "line 7: maxPrefixBlocksToMatch has no effect beside maxPrefixTokensToMatch",
        ),
    ],
)
def test_a_limit_of_the_prefix_that_is_not_the_one_in_force_is_told_with_its_line(
    type: str, parameters: str, warning: str | None
) -> None:
    found = parsed(place(type, parameters)).warnings

    assert [one[: len(warning or "")] for one in found] == ([] if warning is None else [warning])


def test_a_limit_of_the_prefix_beside_a_producer_that_wins_is_told_with_its_line() -> None:
    producer = "- {name: own, type: approx-prefix-cache-producer}\n- type: approx-prefix-cache-producer\n"
    text = place("prefix-cache-scorer", "maxPrefixTokensToMatch: 5000")

    assert parsed(text + producer).warnings == (
        "line 6: maxPrefixTokensToMatch has no effect: 'approx-prefix-cache-producer' shapes the index",
    )
    named = place("prefix-cache-scorer", "prefixMatchInfoProducerName: own, maxPrefixBlocksToMatch: 9") + producer
    assert parsed(named).warnings == ("line 7: maxPrefixBlocksToMatch has no effect: 'own' shapes the index",)


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
        (
            "plugins:\n- type: metrics-data-source\n  parameters:\n    scheme: https\n    caCertPath: /ca.crt",
            "line 7: caCertPath has no effect",
        ),
        (
            (
                "plugins:\n- type: core-metrics-extractor\n  parameters:\n    engineConfigs:\n    - name: own\n"
                "      customMetrics: [{attributeKey: a, metricSpec: b}]"
            ),
            "line 8: customMetrics of 'own' has no effect",
        ),
    ],
)
def test_what_has_no_effect_is_a_warning(text: str, warning: str) -> None:
    (found,) = parsed(HEAD + text).warnings

    assert found.startswith(warning)


# --- errors -----------------------------------------------------------------------------------------

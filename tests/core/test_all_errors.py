"""All errors of a configuration are told at once, and none that is there only because of another."""

import pytest
from hypothesis import given, strategies as st

from pointsman.cli.supervising.config_file import errors_of
from pointsman.core.config.all_errors import find_errors
from pointsman.core.config.parse import PickingFlags

WRONG = """\
apiVersion: llm-d.ai/v1
kind: EndpointPickerConfig
featureGates: [nothing]
plugins:
- tpye: queue-scorer
- type: queue-scorrer
- type: low-queue-filter
  parameters: {treshold: 1}
- name: x
- name: y
- type: low-queue-filter
- type: utilization-detector
  parameters: {metricsStalenessThreshold: 10, queueDepthThreshold: many}
- type: metrics-data-source
  parameters: {port: 99999}
- type: file-discovery
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: queue-scorrer
  - pluginRef: low-queue-filter
  - pluginRef: nobody
  - pluginRef: low-queue-filter
    weight: 1e13
flowControl: {maxBytes: some}
"""


def told(text: str) -> list[tuple[int, str]]:
    return [(error.line, error.message) for error in errors_of(text, PickingFlags())]


def test_all_errors_are_told_by_line_and_each_once() -> None:
    assert told(WRONG) == [
        (1, "apiVersion is 'llm-d.ai/v1', did you mean 'llm-d.ai/v1alpha1'?"),
        (3, "unknown feature gate 'nothing', wanted one of dataLayer, enableLegacyMetrics, flowControl, haPopulateNonLeaderDatastore, prepareDataPlugins"),
        (5, "unknown field 'tpye' in plugins[0], did you mean 'type'?"),
        (6, "unknown plugin type 'queue-scorrer', did you mean 'queue-scorer'?"),
        (8, "unknown field 'treshold' in plugins[2].parameters, did you mean 'threshold'?"),
        (9, "plugins[3] has no type"),
        (10, "plugins[4] has no type"),
        (11, "two plugins are named 'low-queue-filter'; give one of them another name"),
        (13, "plugins[6].parameters.metricsStalenessThreshold: found 10, wanted a duration such as '200ms' or '1m30s'"),
        (13, "plugins[6].parameters.queueDepthThreshold is 'many', wanted a whole number"),
        (15, "plugins[7].parameters: port is 99999, wanted 1 to 65535"),
        (16, "path is missing in plugins[8].parameters"),
        (22, "no plugin is named 'nobody', wanted one of low-queue-filter, metrics-data-source, utilization-detector"),
        (24, "weight of 'low-queue-filter' is 10000000000000.0, wanted -1e12 to 1e12"),
        (25, "flowControl.maxBytes: found 'some', wanted a quantity such as 5000, '512Mi' or '1G'"),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["5", "[]", "a: [", "---\na: 1\n---\nb: 1\n", "plugins: 5\n"])
def test_what_is_no_configuration_at_all_is_told_once_or_with_all_it_lacks(text: str) -> None:
    assert 1 <= len(told(text)) <= 3


scalars = st.none() | st.booleans() | st.integers(-5, 70_000) | st.sampled_from(["", "x", "1s", "queue-scorer"])
words = st.sampled_from(
    "apiVersion kind plugins type name parameters schedulingProfiles pluginRef weight x"
    " dataLayer discovery sources extractors flowControl saturationDetector parser data".split()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5), max_leaves=25
)


@given(values)
def test_the_search_ends_for_anything_and_finds_what_reading_finds_first(value: object) -> None:
    errors = find_errors(value, {}, PickingFlags())

    assert len({(error.line, error.message) for error in errors}) == len(errors)

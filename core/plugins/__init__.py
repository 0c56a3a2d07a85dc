"""The catalogue: every plugin type of this distribution, one module each.

A module is imported for what it registers; one that is not listed here does not exist.
"""

# ruff: noqa: F401  # imported to be run, not to be used

from pointsman.core.plugins import (
    anthropic_parser,
    approx_prefix_cache_producer,
    core_metrics_extractor,
    decision_tree_filter,
    file_discovery,
    kv_cache_utilization_scorer,
    least_kv_cache_filter,
    least_queue_filter,
    lora_affinity_filter,
    lora_affinity_scorer,
    low_queue_filter,
    max_score_picker,
    metrics_data_source,
    openai_parser,
    passthrough_parser,
    prefix_cache_scorer,
    queue_scorer,
    random_picker,
    running_requests_size_scorer,
    single_profile_handler,
    utilization_detector,
    vllmhttp_parser,
    weighted_random_picker,
)

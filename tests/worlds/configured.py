"""Configurations from YAML text, for tests."""

import pytest
import yaml

from pointsman.core.config.document import ConfigPath as Place
from pointsman.core.config.parse import (
    ConfigError,
    EffectiveConfig,
    PickingFlags,
    parse_config,
)

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

"""An EndpointPickerConfig from a file's text."""

from typing import TYPE_CHECKING

from pointsman.cli.failure import Failure
from pointsman.core.config.all_errors import find_errors
from pointsman.core.config.parse import ConfigError, EffectiveConfig, PickingFlags, parse_config

if TYPE_CHECKING:
    from pointsman.cluster.objects.yaml_document import YamlDocument


def parse_text(text: str, flags: PickingFlags) -> EffectiveConfig:
    """The configuration that `text` puts in force; `ConfigError` where it is wrong."""
    document = _document(text)
    return parse_config(document.value, document.lines, flags)


def errors_of(text: str, flags: PickingFlags) -> list[ConfigError]:
    """All that is wrong with `text`, by line."""
    try:
        document = _document(text)
    except ConfigError as error:
        return [error]
    return find_errors(document.value, document.lines, flags)


def _document(text: str) -> "YamlDocument":
    from pointsman.cluster.objects.yaml_document import DocumentError, load_documents

    try:
        documents = load_documents(text)
    except DocumentError as error:
        raise ConfigError(error.line, error.message) from error
    if len(documents) != 1:
        raise ConfigError(
            documents[1].line if documents else 1,
            f"found {len(documents)} documents, wanted one EndpointPickerConfig",
        )
    return documents[0]


def read_config(text: str, source: str, flags: PickingFlags) -> EffectiveConfig:
    """The same as `parse_text`, with errors that name `source` for an operator."""
    try:
        return parse_text(text, flags)
    except ConfigError as error:
        raise Failure(f"{source}, {error}") from error

"""An EndpointPickerConfig from a file's text."""

from pointsman.cli.failure import Failure
from pointsman.core.config.parse import ConfigError, EffectiveConfig, PickingFlags, parse_config


def parse_text(text: str, flags: PickingFlags) -> EffectiveConfig:
    """The configuration that `text` puts in force; `ConfigError` where it is wrong."""
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
    return parse_config(documents[0].value, documents[0].lines, flags)


def read_config(text: str, source: str, flags: PickingFlags) -> EffectiveConfig:
    """The same as `parse_text`, with errors that name `source` for an operator."""
    try:
        return parse_text(text, flags)
    except ConfigError as error:
        raise Failure(f"{source}, {error}") from error

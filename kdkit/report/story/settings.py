"""The settings of a run that are not the defaults: with a page's lines alone a reader can repeat it."""

from typing import Any

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import Config


def changed_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return what a configuration's file must say, nested as it says it.

    Args:
        config: complete, as `config.yaml` of a run holds it; of an older build, it lacks what came later.
    """
    kind = EmbeddingConfig if "method" in config else Config
    return _changed(kind().model_dump(), config)


def _changed(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that differ; what has a name and options, such as a loss, stays whole."""
    found = {}
    for key, value in values.items():
        default = defaults.get(key)
        if value == default:
            continue
        is_section = isinstance(value, dict) and isinstance(default, dict) and not isinstance(value.get("name"), str)
        found[key] = _changed(default, value) if is_section else value
    return found

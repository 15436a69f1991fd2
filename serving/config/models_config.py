"""models.config: which versions of which models TensorFlow Serving loads, and which one the label `stable` names.

The file is a text-format `tensorflow.serving.ModelServerConfig`. Other models in it, and labels of our model that are
not ours, are kept; comments are not, as protobuf's text format drops them.
"""

from typing import Any

from google.protobuf import text_format

from serving.contract import STABLE_LABEL
from serving.errors import WhiskerError
from serving.protos import message

# TensorFlow Serving refuses a model without a platform.
PLATFORM = "tensorflow"

# A tensorflow.serving.ModelServerConfig; its class is made at run time, so that no type checker knows its fields.
ModelServerConfig = Any


class ModelsConfigError(WhiskerError):
    """A models.config cannot be read, or asked for something that TensorFlow Serving would refuse."""


def parse(text: str | bytes, source: str) -> ModelServerConfig:
    """Reads a models.config.

    Args:
        text: the file's content; empty is a file without models.
        source: where it comes from, for the error.

    Raises:
        ModelsConfigError: it is no models.config, is no list of models, or lists a model twice.
    """
    try:
        config = text_format.Parse(text, message("tensorflow.serving.ModelServerConfig")())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ModelsConfigError(
            f"{source} is no models.config ({reason}): mend it, or move it away; it has not been changed"
        ) from error
    if config.WhichOneof("config") == "custom_model_config":
        raise ModelsConfigError(f"{source} has a custom_model_config: expected a model_config_list")
    names = [model.name for model in config.model_config_list.config]
    for name in names:
        if names.count(name) > 1:
            raise ModelsConfigError(f"{source} lists the model {name} {names.count(name)} times: leave one of them")
    return config


def render(config: ModelServerConfig) -> str:
    """Writes a configuration as the text that `parse` and TensorFlow Serving read."""
    return text_format.MessageToString(config)


def live_version(config: ModelServerConfig, model_name: str) -> int | None:
    """Gives the version that carries the label `stable`, or None where the model or the label is missing."""
    for model in config.model_config_list.config:
        if model.name == model_name and STABLE_LABEL in model.version_labels:
            return model.version_labels[STABLE_LABEL]
    return None


def with_live(config: ModelServerConfig, model_name: str, base_path: str, version: int) -> ModelServerConfig:
    """Makes a version the live one: loaded, and labelled `stable`.

    The version that was live is loaded no longer, unless another label names it. Versions that other labels name stay,
    as TensorFlow Serving refuses a label on a version that is not loaded.

    Args:
        config: stays as it is.
        model_name: added where the configuration does not have it yet.
        base_path: absolute path, or URI, of the folder that holds the versions.
        version: above 0.

    Returns:
        A changed copy.

    Raises:
        ModelsConfigError: `base_path` is relative.
    """
    if not base_path.startswith("/") and "://" not in base_path:
        raise ModelsConfigError(
            f"base_path of the model {model_name} is {base_path}: expected an absolute path or a URI"
        )
    changed = type(config)()
    changed.CopyFrom(config)
    models = changed.model_config_list.config
    model = next((model for model in models if model.name == model_name), None)
    if model is None:
        model = models.add(name=model_name)
    model.base_path = base_path
    model.model_platform = PLATFORM
    versions = set(model.model_version_policy.specific.versions) - {live_version(config, model_name)}
    model.version_labels[STABLE_LABEL] = version
    versions.update(model.version_labels.values())
    model.model_version_policy.specific.versions[:] = sorted(versions)
    return changed

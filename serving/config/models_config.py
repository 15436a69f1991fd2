"""models.config: which versions of which models TensorFlow Serving loads, and which one the label
`stable` names.

The file is a text-format `tensorflow.serving.ModelServerConfig`. Other models in it, and labels of
our model that are not ours, are kept; comments are not, as protobuf's text format drops them.
"""

from collections.abc import Collection
from copy import deepcopy
from typing import Any

from serving.config import ConfigError, parse_text
from whisker_ml.contract import MODELS_CONFIG, STABLE_LABEL

# TensorFlow Serving refuses a model without a platform.
PLATFORM = "tensorflow"

# A tensorflow.serving.ModelServerConfig; its class is made at run time, so that no type checker
# knows its fields.
ModelServerConfig = Any


def parse(text: str | bytes, source: str) -> ModelServerConfig:
    """Reads a models.config.

    Args:
        text: the file's content; empty is a file without models.
        source: where it comes from, for the error.

    Raises:
        ConfigError: it is no models.config, or is refused by `check`.
    """
    config = parse_text(text, source, "ModelServerConfig")
    check(config, source)
    return config


def check(config: ModelServerConfig, source: str) -> None:
    """Refuses what TensorFlow Serving would refuse, and models that it would wait for without end.

    Args:
        config: read or made.
        source: where it comes from, for the error.

    Raises:
        ConfigError: it is no list of models; or lists one twice, one without an absolute base_path
            or a platform, one of which no version is to be loaded, or a label on a version that is
            not.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise ConfigError(f"{source} has a custom_model_config: expected a model_config_list")
    names = [model.name for model in config.model_config_list.config]
    for model in config.model_config_list.config:
        if names.count(model.name) > 1:
            raise ConfigError(
                f"{source} lists the model {model.name} {names.count(model.name)} times: leave one"
                " of them"
            )
        if not model.base_path.startswith("/") and "://" not in model.base_path:
            raise ConfigError(
                f"{source}: base_path of the model {model.name} is {model.base_path}: expected an"
                " absolute path or a URI"
            )
        if not model.model_platform and not model.model_type:
            raise ConfigError(
                f"{source}: the model {model.name} has no model_platform: add model_platform:"
                f' "{PLATFORM}"'
            )
        if model.model_version_policy.WhichOneof("policy_choice") == "specific":
            _check_specific(model, source)


def _check_specific(model: Any, source: str) -> None:
    versions = model.model_version_policy.specific.versions
    if not versions:
        raise ConfigError(
            f"{source}: the model {model.name} has no specific versions: name at least one"
        )
    for label, version in model.version_labels.items():
        if version not in versions:
            raise ConfigError(
                f"{source}: the label {label} of the model {model.name} is on version {version},"
                f" which is not among its specific versions {list(versions)}: add it there, or move"
                " the label"
            )


def labels(config: ModelServerConfig, model_name: str) -> dict[str, int]:
    """Gives the labels of a model, and the version that each names; none where the model is
    missing.
    """
    models = (model for model in config.model_config_list.config if model.name == model_name)
    return {label: version for model in models for label, version in model.version_labels.items()}


def live_version(config: ModelServerConfig, model_name: str) -> int | None:
    """Gives the version that carries the label `stable`, or None where the model or the label is
    missing.
    """
    return labels(config, model_name).get(STABLE_LABEL)


def named(config: ModelServerConfig, model_name: str) -> set[int]:
    """Gives the versions of a model that are to be loaded by their number, or have a label."""
    models = (model for model in config.model_config_list.config if model.name == model_name)
    return {
        version
        for model in models
        for version in (
            *model.model_version_policy.specific.versions,
            *model.version_labels.values(),
        )
    }


def without(
    config: ModelServerConfig, model_name: str, versions: Collection[int]
) -> ModelServerConfig:
    """Gives a copy in which some versions of a model are not loaded and have no label; a model of
    which nothing is left is not there at all.
    """
    changed = deepcopy(config)
    models = changed.model_config_list.config
    for model in [model for model in models if model.name == model_name]:
        for label, version in list(model.version_labels.items()):
            if version in versions:
                del model.version_labels[label]
        listed = model.model_version_policy.specific.versions
        if listed:
            listed[:] = [version for version in listed if version not in versions]
            if not listed:
                models.remove(model)
    return changed


def with_live(
    config: ModelServerConfig,
    model_name: str,
    base_path: str,
    version: int,
    label: str = STABLE_LABEL,
) -> ModelServerConfig:
    """Makes a version the live one: loaded, and labelled `stable`.

    The version that had the label is loaded no longer, unless another label names it. Versions that
    other labels name stay, as TensorFlow Serving refuses a label on a version that is not loaded.

    Args:
        config: stays as it is.
        model_name: added where the configuration does not have it yet.
        base_path: absolute path, or URI, of the folder that holds the versions.
        version: above 0.
        label: another one than `stable`, for a version that is loaded beside the live one.

    Returns:
        A changed copy.

    Raises:
        ConfigError: `base_path` is relative, or something else in the file is refused by `check`.
    """
    changed = deepcopy(config)
    models = changed.model_config_list.config
    model = next((model for model in models if model.name == model_name), None)
    if model is None:
        model = models.add(name=model_name)
    model.base_path = base_path
    model.model_platform = PLATFORM
    versions = set(model.model_version_policy.specific.versions) - {model.version_labels.get(label)}
    model.version_labels[label] = version
    versions.update(model.version_labels.values())
    model.model_version_policy.specific.versions[:] = sorted(versions)
    check(changed, MODELS_CONFIG)
    return changed

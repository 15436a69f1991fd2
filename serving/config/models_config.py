"""models.config: which versions of which models TensorFlow Serving loads, and which one the label
`stable` names.

The file is a text-format `tensorflow.serving.ModelServerConfig`. Other models in it, and labels of
our model that are not ours, are kept; comments are not, as protobuf's text format drops them.
"""

from collections.abc import Collection, Iterator
from copy import deepcopy
from typing import Any

from serving.config import ConfigError, parse_text
from serving.protos import message
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
        for fault in _faults(model, f"the model {model.name}"):
            raise ConfigError(f"{source}: {fault}")


def _faults(model: Any, name: str) -> Iterator[str]:
    if not model.base_path.startswith("/") and "://" not in model.base_path:
        yield (f"base_path of {name} is {model.base_path}: expected an absolute path or a URI")
    if not model.model_platform and not model.model_type:
        yield f'{name} has no model_platform: add model_platform: "{PLATFORM}"'
    if model.model_version_policy.WhichOneof("policy_choice") != "specific":
        return
    if not listed(model):
        yield f"{name} has no specific versions: name at least one"
    for label, version in model.version_labels.items():
        if version not in listed(model):
            yield (
                f"the label {label} of {name} is on version {version}, which is not among its"
                f" specific versions {list(listed(model))}: add it there, or move the label"
            )


def entry(config: ModelServerConfig, model_name: str) -> Any:
    """Gives what a configuration says of a model; an empty message where that is nothing."""
    models = (model for model in config.model_config_list.config if model.name == model_name)
    return next(models, message("tensorflow.serving.ModelConfig")())


def listed(model: Any) -> Any:
    """Gives the versions of an `entry` that are to be loaded by their number, to be changed."""
    return model.model_version_policy.specific.versions


def edited(
    config: ModelServerConfig, model_name: str, base_path: str
) -> tuple[ModelServerConfig, Any]:
    """Gives a copy, and in it the entry of a model, which is added where it is missing."""
    changed = deepcopy(config)
    model = entry(changed, model_name)
    if not model.name:
        model = changed.model_config_list.config.add(name=model_name)
    model.base_path, model.model_platform = base_path, PLATFORM
    return changed, model


def labels(config: ModelServerConfig, model_name: str) -> dict[str, int]:
    """Gives the labels of a model, and the version that each names; none where the model is
    missing.
    """
    return dict(entry(config, model_name).version_labels)


def live_version(config: ModelServerConfig, model_name: str) -> int | None:
    """Gives the version that carries the label `stable`, or None where the model or the label is
    missing.
    """
    return labels(config, model_name).get(STABLE_LABEL)


def named(config: ModelServerConfig, model_name: str) -> set[int]:
    """Gives the versions of a model that are to be loaded by their number, or have a label."""
    model = entry(config, model_name)
    return {*listed(model), *model.version_labels.values()}


def without(
    config: ModelServerConfig, model_name: str, versions: Collection[int]
) -> ModelServerConfig:
    """Gives a copy in which some versions of a model are not loaded and have no label; a model of
    which nothing is left is not there at all.
    """
    changed = deepcopy(config)
    model = entry(changed, model_name)
    for label, version in labels(config, model_name).items():
        if version in versions:
            del model.version_labels[label]
    if listed(model):
        listed(model)[:] = [version for version in listed(model) if version not in versions]
        if not listed(model):
            changed.model_config_list.config.remove(model)
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
    changed, model = edited(config, model_name, base_path)
    versions = set(listed(model)) - {model.version_labels.get(label)}
    model.version_labels[label] = version
    listed(model)[:] = sorted({*versions, *model.version_labels.values()})
    check(changed, MODELS_CONFIG)
    return changed

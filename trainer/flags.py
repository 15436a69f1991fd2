"""absl flags of a training run, made from the fields of `Config`; for entry points alone."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags

from trainer.config import Config

_PARSERS = {
    bool: flags.BooleanParser,
    float: flags.FloatParser,
    int: flags.IntegerParser,
    str: flags.ArgumentParser,
}


def define(settings: type = Config) -> None:
    """Defines one flag per setting, as flags of the running command, so that its --help shows them.

    Args:
        settings: a dataclass whose fields say in their metadata what they mean, and which `choices`
            there are.
    """
    for setting in dataclasses.fields(settings):
        kind = type(setting.default)
        parser = _PARSERS[kind]()
        choices = setting.metadata["choices"]
        text = (
            f"<{'|'.join(choice for choice in choices if choice)}>: {setting.metadata['help']}"
            if choices
            else setting.metadata["help"]
        )
        # Choices and bounds stay in `Config`, whose errors say what is expected; a flag only parses
        # its type.
        make = flags.BooleanFlag if kind is bool else flags.Flag
        flag = (
            make(setting.name, setting.default, text)
            if kind is bool
            else make(parser, flags.ArgumentSerializer(), setting.name, setting.default, text)
        )
        flags.DEFINE_flag(flag, module_name=sys.argv[0])


def config(otherwise: Mapping[str, Any] | None = None, **instead: Any) -> Config:
    """Makes the config that the parsed flags ask for.

    Args:
        otherwise: values of settings that no flag gives, by name.
        instead: values that take the place of the flags' own, by name of the setting.

    Raises:
        ConfigError: a value is out of its range.
    """
    asked = {setting.name: flags.FLAGS[setting.name] for setting in dataclasses.fields(Config)}
    values = {
        name: flag.value if flag.present else (otherwise or {}).get(name, flag.value)
        for name, flag in asked.items()
    }
    return Config(**(values | instead))


def arguments() -> list[str]:
    """Lists the settings that were given on this command line, as ``--name=value``, to be
    forwarded.
    """
    given = (flags.FLAGS[setting.name] for setting in dataclasses.fields(Config))
    return [
        f"--{flag.name}={str(flag.value).lower() if flag.boolean else flag.value}"
        for flag in given
        if flag.present
    ]

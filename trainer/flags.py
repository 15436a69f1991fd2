"""absl flags of a training run, made from the fields of `Config`; for entry points alone."""

import dataclasses
import sys
from typing import Any

from absl import flags

from trainer.config import Config

_PARSERS = {
    bool: flags.BooleanParser,
    float: flags.FloatParser,
    int: flags.IntegerParser,
    str: flags.ArgumentParser,
}


def define() -> None:
    """Defines one flag per setting, as flags of the running command, so that its --help shows them."""
    for setting in dataclasses.fields(Config):
        kind = type(setting.default)
        parser = _PARSERS[kind]()
        choices = setting.metadata["choices"]
        text = f"<{'|'.join(choices)}>: {setting.metadata['help']}" if choices else setting.metadata["help"]
        # Choices and bounds stay in `Config`, whose errors say what is expected; a flag only parses its type.
        make = flags.BooleanFlag if kind is bool else flags.Flag
        flag = (
            make(setting.name, setting.default, text)
            if kind is bool
            else make(parser, flags.ArgumentSerializer(), setting.name, setting.default, text)
        )
        flags.DEFINE_flag(flag, module_name=sys.argv[0])


def config(**instead: Any) -> Config:
    """Makes the config that the parsed flags ask for.

    Args:
        instead: values that take the place of the flags' own, by name of the setting.

    Raises:
        ConfigError: a value is out of its range.
    """
    asked = {setting.name: flags.FLAGS[setting.name].value for setting in dataclasses.fields(Config)}
    return Config(**(asked | instead))


def arguments() -> list[str]:
    """Lists the settings that were given on this command line, as ``--name=value``, to be forwarded."""
    given = (flags.FLAGS[setting.name] for setting in dataclasses.fields(Config))
    return [
        f"--{flag.name}={str(flag.value).lower() if flag.boolean else flag.value}" for flag in given if flag.present
    ]

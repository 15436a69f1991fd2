"""docs/flags.md lists the flags of `whisker-train` and the exit codes; `python -m
tests.docs.test_flags` writes it.
"""

import itertools
from pathlib import Path

from tests.docs.pages import BEGIN, END, with_contents
from trainer.config import Config
from whisker_ml import cli, errors

PAGE = Path(__file__).parents[2] / "docs" / "flags.md"
_HEAD = f"""\
# Flags and exit codes

{BEGIN}{END}
`--help` of every command shows what it is for, three examples, and its flags in groups. Those of
`whisker-train` are below. `--verbosity=0` shows TensorFlow's log.

## Exit codes

| code | meaning |
|---:|---|
| {errors.EXIT_DONE} | done |
| {errors.EXIT_DEFECT} | a defect of ours |
| {errors.EXIT_USAGE} | wrong use or unusable input, with one line: what, where and how to fix it |
| {errors.EXIT_GATE_REFUSED} | refused by the gate; the run folder is complete |
| {errors.EXIT_SOME_PICTURES_FAILED} | finished, but some pictures failed (`whisker-predict`) |
| {errors.EXIT_AGAIN} | another worker of several machines is gone: give the same commands again |
| 129 | stopped by a closed terminal |
| {errors.EXIT_INTERRUPTED} | stopped by Ctrl-C |
| {errors.EXIT_STOPPED} | stopped by SIGTERM |

A run that is stopped leaves a checkpoint behind. `whisker-serve` ends as
`tensorflow_model_server` does: 255 where it cannot start.
"""


def page():
    lines = [_HEAD.rstrip("\n")]
    for group, settings in itertools.groupby(cli.grouped(Config), key=lambda pair: pair[0]):
        lines += ["", f"## {group}", "", "| flag | default | meaning |", "|---|---|---|"]
        for _, setting in settings:
            shown = cli.written(setting.default)
            meaning = cli.meaning(setting.metadata["help"], setting.metadata["choices"])
            lines.append(f"| `--{setting.name}` | {f'`{shown}`' if shown else ''} | {meaning} |")
    return with_contents("\n".join(lines) + "\n")


def test_flags_are_those_of_the_trainer():
    assert PAGE.read_text(encoding="utf-8") == page()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

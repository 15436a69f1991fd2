"""docs/flags.md and docs/flags-serving.md list the flags of every command, and the exit codes;
`python -m tests.docs.test_flags` writes them.
"""

import importlib
import itertools
import re
from pathlib import Path
from unittest.mock import patch

import pytest
from absl import flags

from serving.server.flags import rows as server_rows
from tests.docs.pages import BEGIN, END, with_contents
from whisker_ml import cli, errors

DOCS = Path(__file__).parents[2] / "docs"
_HEAD = f"""\
# Flags and exit codes

{BEGIN}{END}
`--help` of every command shows what it is for, three examples, and its flags in groups.
`--verbosity=0` shows TensorFlow's log. The flags of `whisker-serve`, `whisker-predict` and
`whisker-store` are on [a page of their own](flags-serving.md).

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
_HEAD_OF_SERVING = f"""\
# Flags for serving

{BEGIN}{END}
The flags of the commands that serve a model, ask it and manage it. The other commands, and the exit
codes, are on [another page](flags.md).
"""
TRAIN = "whisker-train"
# Of each command the module whose `main` defines its flags.
TRAINING = {
    TRAIN: "trainer.task",
    "whisker-compare": "trainer.compare",
    "whisker-data": "trainer.data.__main__",
    "whisker-submit": "trainer.submit",
    "whisker-jobs": "trainer.jobs",
}
SERVING = {
    "whisker-serve": "",
    "whisker-predict": "serving.predict",
    "whisker-store": "serving.store.__main__",
}
# Its default is a number of the machine that makes the page.
_OF_THE_MACHINE = {"num_tflite_pools": "one per processor"}


def rows_of(module):
    """Group, name, default and meaning of each flag of a command."""
    if not module:
        return server_rows()
    others = set(flags.FLAGS)
    with patch.object(cli, "run"):
        importlib.import_module(module).main()
    rows = [row for row in cli.defined_flags() if row[1] not in others]
    for row in rows:
        delattr(flags.FLAGS, row[1])
    return rows


def table(rows):
    yield from ("", "| flag | default | meaning |", "|---|---|---|")
    for _, name, default, meaning in rows:
        shown = cli.written(default)
        shown = _OF_THE_MACHINE.get(name, f"`{shown}`" if shown else "")
        yield f"| `--{name}` | {shown} | {meaning} |"


def sections(command, rows, known):
    """The tables of a command: its own flags by group, then what it shares with `whisker-train`."""
    names = {row[1] for row in known}
    own = [row for row in rows if row[1] not in names]
    for group, of_group in itertools.groupby(own, key=lambda row: row[0]):
        yield from ("", f"## {command}" + (f": {group}" if group != cli.UNGROUPED else ""))
        yield from table(of_group)
    if len(own) == len(rows):
        return
    changed = [row for row in rows if row[1] in names and row not in known]
    same = [row[1] for row in rows if row in known]
    if changed:
        yield from ("", f"Of `{TRAIN}`, with another meaning:", *table(changed))
    listed = ", ".join(f"`--{name}`" for name in same)
    every = len(same) + len(changed) == len(known)
    yield from ("", f"The other flags are those of `{TRAIN}`{'' if every else f': {listed}'}.")


def page(head, commands):
    lines = [head.rstrip("\n")]
    of_training = rows_of(TRAINING[TRAIN])
    for command, module in commands.items():
        known = of_training if command in TRAINING and command != TRAIN else []
        lines += sections(command, rows_of(module), known)
    return with_contents("\n".join(lines) + "\n")


PAGES = {
    DOCS / "flags.md": (_HEAD, TRAINING),
    DOCS / "flags-serving.md": (_HEAD_OF_SERVING, SERVING),
}


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_flags_are_those_of_the_commands(file):
    assert file.read_text(encoding="utf-8") == page(*PAGES[file])


def test_pages_list_every_command():
    setup = (DOCS.parent / "setup.py").read_text(encoding="utf-8")
    assert [*TRAINING, *SERVING] == re.findall(r'"(whisker-\w+)=', setup)


if __name__ == "__main__":
    for file, content in PAGES.items():
        file.write_text(page(*content), encoding="utf-8")

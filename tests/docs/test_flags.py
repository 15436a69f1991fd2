"""docs/flags.md lists the flags of `whisker-train`; `python -m tests.docs.test_flags` writes it."""

import itertools
from pathlib import Path

from trainer.config import Config
from whisker_ml import cli

PAGE = Path(__file__).parents[2] / "docs" / "flags.md"


def page():
    lines = ["# Flags of `whisker-train`"]
    for group, settings in itertools.groupby(cli.grouped(Config), key=lambda pair: pair[0]):
        lines += ["", f"## {group}", "", "| flag | default | meaning |", "|---|---|---|"]
        for _, setting in settings:
            shown = cli.written(setting.default)
            meaning = cli.meaning(setting.metadata["help"], setting.metadata["choices"])
            lines.append(f"| `--{setting.name}` | {f'`{shown}`' if shown else ''} | {meaning} |")
    return "\n".join(lines) + "\n"


def test_flags_are_those_of_the_trainer():
    assert PAGE.read_text(encoding="utf-8") == page()


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")

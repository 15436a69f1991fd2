"""docs/flags.md lists the flags of `trainer.task`; `python -m tests.docs.test_flags` writes it."""

import dataclasses
from pathlib import Path

from trainer.config import Config

PAGE = Path(__file__).parents[2] / "docs" / "flags.md"


def page():
    lines = ["# Flags of `trainer.task`", "", "| flag | default | meaning |", "|---|---|---|"]
    for setting in dataclasses.fields(Config):
        default = setting.default
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        choices = "|".join(filter(None, setting.metadata["choices"])).replace("|", ", ")
        meaning = setting.metadata["help"] + (f" ({choices})" if choices else "")
        lines.append(f"| `--{setting.name}` | {f'`{shown}`' if shown else ''} | {meaning} |")
    return "\n".join(lines) + "\n"


def test_flags_are_those_of_the_trainer():
    assert PAGE.read_text(encoding="utf-8") == page()


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")

"""CONTRIBUTING's map has a row for every file of every package, in the words of its docstring.

python -m tests.docs.test_contributing writes it anew.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- map: begin -->\n", "<!-- map: end -->\n"
PACKAGES = ("whisker_ml", "trainer", "serving")


def purpose(file):
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    text = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=[.])\s+(?=[A-Z`])", text)[0].removesuffix(".")


def drawn_map():
    """The map as it should be: a table for each package."""
    lines = []
    for top in PACKAGES:
        folders = sorted({file.parent for file in (ROOT / top).rglob("*.py")})
        for folder in folders:
            lines += [f"\n| `{folder.relative_to(ROOT).as_posix()}/` | |", "|---|---|"]
            lines += [
                f"| `{file.name}` | {purpose(file)} |" for file in sorted(folder.glob("*.py"))
            ]
    return "\n".join(lines) + "\n\n"


def split():
    text = CONTRIBUTING.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return before + BEGIN, *rest.split(END)


def test_every_file_is_on_the_map_with_what_its_docstring_says():
    assert split()[1] == drawn_map(), "run python -m tests.docs.test_contributing"


def test_every_file_that_contributing_names_exists():
    before, _, after = split()
    paths = re.findall(
        r"`((?:trainer|serving|whisker_ml|infra|tests|examples)/[\w./]+)`", before + after
    )
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []


if __name__ == "__main__":
    first, _, last = split()
    CONTRIBUTING.write_text(first + drawn_map() + END + last, encoding="utf-8")

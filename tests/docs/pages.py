"""README and the pages in docs/: which there are, in the order of their blocks; and their
contents.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
# Blocks run in this order: the model that README trains is published, served and asked by later
# pages.
_NAMES = (
    "data",
    "training",
    "reports",
    "publishing",
    "serving",
    "client",
    "cloud",
    "rehearsal",
    "flags",
    "flags-serving",
    "formats",
    "benchmarks",
    "index",
)
DOCS = tuple(ROOT / "docs" / f"{name}.md" for name in _NAMES)
PAGES = (README, *DOCS)
# Linked from them, and held to their links too.
LINKED = tuple(
    ROOT / name for name in ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "infra/README.md")
)

BEGIN, END = "<!-- contents: begin -->\n", "<!-- contents: end -->\n"


def without_code(text):
    """Markdown without its fenced blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchor(heading):
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def headings(text):
    return re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)


def contents(text):
    """The table of contents that a page should have: its sections."""
    sections = re.findall(r"^## (.+)$", without_code(text), re.MULTILINE)
    return "".join(f"* [{section}](#{anchor(section)})\n" for section in sections)


def with_contents(text):
    """A page with its table of contents as it should be."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{contents(text)}\n{END}{rest.split(END)[1]}"

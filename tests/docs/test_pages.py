"""README is one screen, and each page in docs/ can be finished, has its contents, and links that
lead somewhere.

python -m tests.docs.test_pages writes the contents anew.
"""

import re

import pytest

from tests.docs.pages import (
    DOCS,
    LINKED,
    PAGES,
    README,
    anchor,
    headings,
    with_contents,
    without_code,
)

README_MOST_LINES, README_MOST_WORDS, PAGE_MOST_WORDS = 200, 1_500, 2_000


def name(page):
    return page.name if page.parent.name != "infra" else "infra"


def words(text):
    """How many words a text has; what a table is drawn with is none."""
    return len(re.findall(r"\S*\w\S*", text))


def test_every_page_is_known():
    assert set(DOCS) == set((README.parent / "docs").glob("*.md"))


def test_readme_is_one_screen():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= README_MOST_LINES
    assert words(text) <= README_MOST_WORDS
    for page in DOCS:
        assert f"](docs/{page.name}" in text or page.name == "index.md"


@pytest.mark.parametrize("page", DOCS, ids=name)
def test_page_can_be_finished_and_has_its_contents(page):
    text = page.read_text(encoding="utf-8")
    assert words(text) <= PAGE_MOST_WORDS
    assert with_contents(text) == text, "run python -m tests.docs.test_pages"


@pytest.mark.parametrize("page", [*PAGES, *LINKED], ids=name)
def test_links_lead_somewhere(page):
    text = without_code(page.read_text(encoding="utf-8"))
    anchors = [anchor(heading) for heading in headings(text)]
    if page in DOCS:
        assert sorted(set(anchors)) == sorted(anchors)
        # The site collapses what a character that is left out would double.
        assert [found for found in anchors if "--" in found] == []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, fragment = target.partition("#")
        assert "://" not in path, f"{target}: relative links alone can be checked"
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if fragment:
            found = headings(file.read_text(encoding="utf-8"))
            assert fragment in map(anchor, found), target


if __name__ == "__main__":
    for each in DOCS:
        each.write_text(with_contents(each.read_text(encoding="utf-8")), encoding="utf-8")

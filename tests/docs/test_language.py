"""README and the pages in docs/ are in plain language, as far as counting can tell: short
sentences, and none of the words that have a plainer one.
"""

import re
from statistics import mean

import pytest

from tests.docs.pages import PAGES, without_code

MOST_WORDS, MOST_WORDS_ON_AVERAGE = 40, 25
# To the left what was found in our own pages, to the right what to say.
PLAINER = {
    "alike": "near-duplicate, or the same",
    "anew": "again, or new",
    "cure": "fix",
    "dialogue": "protocol",
    "doors?": "step",
    "for the while": "while …",
    "go(?:es)? on": "resume, continue, or keep",
    "in the mean": "on average",
    "mend(?:s|ed)?": "fix",
    "nor": "and not, in a sentence of its own",
    "of before": "older",
    "rooms?": "package, folder, or file",
    "wants?": "need, or require",
}


def sentences(text):
    """Those of running text and lists; not of tables, headings, commands and contents."""
    text = re.sub(r"<!--.*?-->", "", without_code(text), flags=re.DOTALL)
    # A heading, a row and an item's mark begin a block of their own.
    text = re.sub(r"^(?:#.*|\|.*)$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^ *(?:\*|\d+\.) ", "\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]+`", "`code`", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for block in re.split(r"\n\s*\n", text):
        for sentence in re.split(r"(?<=[.?!])[)*\"]*\s+(?=[A-Z`*(\[\"])", " ".join(block.split())):
            if words := len(re.findall(r"\S*\w\S*", sentence)):
                yield words, sentence


def test_sentences_are_counted_as_a_reader_would():
    found = sentences(
        "# No\n\nOne two `a b.c` [four](x.md).\nFive 6.5 seven: eight.\n\n* Nine\n* Ten.\n"
    )
    assert [words for words, _ in found] == [4, 4, 1, 1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sentences_are_short(page):
    found = list(sentences(page.read_text(encoding="utf-8")))
    assert [each for each in found if each[0] > MOST_WORDS] == []
    assert mean(words for words, _ in found) < MOST_WORDS_ON_AVERAGE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_words_have_no_plainer_one(page):
    text = " ".join(sentence for _, sentence in sentences(page.read_text(encoding="utf-8")))
    found = {
        word[0]: plainer
        for expression, plainer in PLAINER.items()
        for word in re.finditer(rf"\b(?:{expression})\b", text, re.IGNORECASE)
    }
    assert found == {}

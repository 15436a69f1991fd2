"""README, the pages in docs/ and the program's own texts are in plain language, as far as counting
can tell: short sentences, and none of the words that have a plainer one.
"""

import ast
import re
from statistics import mean

import pytest

from tests.docs.pages import PAGES, ROOT, without_code

MOST_WORDS, MOST_WORDS_ON_AVERAGE = 40, 25
FILES = [
    file for top in ("trainer", "serving", "whisker_ml") for file in (ROOT / top).rglob("*.py")
]
# A message of TensorFlow Serving that ours repeats word by word, and a description of a protocol.
QUOTED = ("Illegal setting neither ModelServerConfig::", 'syntax: "proto3"')
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


def plainer(text):
    """The words of a text that have a plainer one, with it."""
    return {
        word[0]: better
        for expression, better in PLAINER.items()
        for word in re.finditer(rf"\b(?:{expression})\b", text, re.IGNORECASE)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_words_have_no_plainer_one(page):
    text = page.read_text(encoding="utf-8")
    assert plainer(" ".join(sentence for _, sentence in sentences(text))) == {}


def literal(node):
    """The text of a string or f-string, with a word for each value; None of any other node."""
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(part) or "value" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def texts(source):
    """What a program may say: its strings of three words or more, and what --help begins with."""
    tree = ast.parse(source)
    if "\n  whisker-" in (ast.get_docstring(tree) or ""):
        yield re.sub(r"^ .*$", "", ast.get_docstring(tree), flags=re.MULTILINE)
    others = {
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr | ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node and (isinstance(node, ast.JoinedStr) or part is node.value)
    }
    for node in ast.walk(tree):
        text = None if node in others else literal(node)
        if text and len(text.split()) >= 3:
            yield text


def test_texts_are_strings_and_help_but_no_other_docstrings():
    program = '"""Help.\n\n  whisker-x --a=1\n\nMore.\n"""\ndef f():\n  """Not this one."""\n'
    program += '  raise E(f"{g(a, \'b c d\')} is no "\n    f"{kind}")\n'
    assert [text.split() for text in texts(program)] == [
        ["Help.", "More."],
        ["value", "is", "no", "value"],
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_program_speaks_as_plainly_as_the_pages(file):
    said = [
        # What follows a semicolon is another choice, or the way out.
        text.replace("; ", "\n\n")
        for text in texts(file.read_text(encoding="utf-8"))
        if not any(quoted in text for quoted in QUOTED)
    ]
    found = [each for text in said for each in sentences(text)]
    assert [each for each in found if each[0] > MOST_WORDS] == []
    assert plainer(" ".join(sentence for _, sentence in found)) == {}

import copy
import re

import pytest

from tests.trained_model import draw
from trainer.reporting import write_model_card


@pytest.fixture
def result(trained):
    return copy.deepcopy(trained.result)


def card(result, folder):
    write_model_card(result, {"commit": "c0ffee"}, folder / "model_card.md")
    return (
        (folder / "model_card.md")
        .read_text(encoding="utf-8")
        .replace("\N{NARROW NO-BREAK SPACE}", " ")
    )


def test_card_says_data_results_training_and_licence(trained):
    text = (trained.run / "model_card.md").read_text(encoding="utf-8")
    result = trained.result
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Model",
        "Intended use",
        "Data",
        "Results on the test pictures",
        "Publication",
        "Limits",
        "Licence",
        "How it was trained",
        "Settings",
        "Environment",
        "How to ask it",
    ]
    assert f"- **ledger digest**: {result['data']['digest']}\n" in text
    assert f" of {result['test']['n']} (95 % interval " in text
    assert "- **epochs**: 3\n" in text
    assert "- **tensorflow**: 2." in text
    assert "- **code**: Apache-2.0\n" in text


def test_lines_of_the_card_ask_the_model(trained, tmp_path, monkeypatch, capsys):
    text = (trained.run / "model_card.md").read_text(encoding="utf-8")
    (tmp_path / "picture.jpg").write_bytes(draw("dogs", 77))
    monkeypatch.chdir(tmp_path)
    exec(re.search("```python\n(.*)```", text, re.DOTALL)[1], {})  # noqa: S102
    assert re.fullmatch(r"dogs [01]\.\d+\n", capsys.readouterr().out)


def test_unpublished_model_is_asked_in_its_run_folder(result, tmp_path):
    assert "load('export')" in card(result | {"model_path": None}, tmp_path)


@pytest.mark.parametrize(
    ("variant", "weights", "words"),
    [
        (
            "transfer",
            "imagenet",
            "- **backbone**: its weights come from ImageNet: it has learnt",
        ),
        (
            "transfer",
            "mine.h5",
            (
                "- **backbone**: it may have seen pictures like these before: its weights come from"
                " mine.h5"
            ),
        ),
        ("transfer", "none", None),
        ("plain", "imagenet", None),
    ],
)
def test_backbone_is_a_limit_of_pretrained_transfer_alone(
    result, tmp_path, variant, weights, words
):
    result["config"]["base_weights"] = weights
    limits = (
        card(result | {"variant": variant}, tmp_path).partition("## Limits")[2].partition("## ")[0]
    )
    assert (words in limits) if words else ("backbone" not in limits)


def test_what_the_reading_finds_bad_or_unclear_is_a_limit(result, tmp_path):
    verdicts = {"good": "fine", "bad": "overfits", "unclear": "too few"}
    result["reading"] = [
        {"about": text, "verdict": verdict, "text": text} for verdict, text in verdicts.items()
    ]
    limits = card(result, tmp_path).partition("## Limits")[2].partition("## ")[0]
    assert re.findall(r"^- \*\*(.*)\*\*", limits, re.MULTILINE) == [
        "overfits",
        "too few",
        "other pictures",
    ]


def test_names_with_markup_are_shown_as_they_are(result, tmp_path):
    result["classes"] = ["<b>&", "a_b*c`[x]|\n# new"]
    assert r"- **classes**: &lt;b&gt;&amp;, a\_b\*c\`\[x\]\|\# new" in card(
        result, tmp_path
    ).replace("| \\#", "|\\#")

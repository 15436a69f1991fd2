"""The whole report of an awkward run: many classes with hostile names, one without test pictures,
one epoch.
"""

import copy
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from trainer.config import Config
from trainer.data.batches import Examples
from trainer.data.ledger import SPLITS, Found, Ledger, Picture, Pictures
from trainer.evaluation.judge import SHOWN, Predicted, judge_predictions
from trainer.evaluation.summary import read_run
from trainer.reporting import write_model_card, write_report
from trainer.reporting.run_report import draw_data, draw_result
from trainer.run_folder import RunFolder
from trainer.variants.objective import Objective

SIZE = 64
MOST_REPORT_BYTES = 5_000_000


def awkward(trained, classes, *, right):
    """A ledger, its pictures (noise, which compresses as badly as can be), and a result of one
    epoch on them.
    """
    pictures = [
        Picture(f"{split}/{number}.jpg", label, split, f"{split}{number}")
        for split in SPLITS
        for number, label in enumerate(classes)
        if (split, number) != ("test", 0)
    ]
    ledger = Ledger(tuple(classes), tuple(pictures), ())
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (len(pictures), SIZE, SIZE, 3), np.uint8)
    found = tuple(Found(picture.path, picture.label, picture.split) for picture in pictures)
    examples = Examples(Pictures(trained.pictures, found), ledger, pixels, SIZE)
    head = Objective(len(classes))
    predicted = []
    for split in ("validation", "test"):
        indices = examples.indices(split)
        labels = examples.labels(indices)
        sure = 10 * labels[:, None] - 5 if head.units == 1 else 5 * np.eye(len(classes))[labels]
        logits = sure if right else generator.normal(0, 1, (len(labels), head.units))
        shown = [pictures[index] for index in indices]
        predicted.append(Predicted(shown, labels, logits.astype(np.float32)))
    result = copy.deepcopy(trained.result)
    history = {name: values[:1] for name, values in result["history"].items()}
    config = Config(variant="augmented", image_size=SIZE, epochs=1)
    result |= {
        "history": history,
        "throughput": [1.0],
        "epochs": 1,
        "chosen_epoch": 1,
        "config": asdict(config),
    }
    result |= {"classes": list(classes), "data": result["data"] | {"counts": ledger.counts()}}
    result |= judge_predictions(head, classes, *predicted, seed=0)
    for name in SHOWN:
        for each in result[name]:
            each["importance"] = np.eye(5).tolist()
    return examples, ledger, config, result | {"reading": read_run(result)}


def run_in(folder):
    """A session whose run folder is this one."""
    return SimpleNamespace(folder=RunFolder(folder, str(folder), {}))


def report(examples, ledger, config, result, folder):
    session, data = run_in(folder), SimpleNamespace(examples=examples, ledger=ledger)
    draw_data(config, session, data)
    draw_result(session, data, result, 1)
    write_model_card(result, {}, folder / "model_card.md")
    write_report(result, {}, folder / "pictures", folder / "report.html")
    return {file.name for file in (folder / "pictures").iterdir()}


@pytest.mark.parametrize("count", [3, 200])
def test_report_of_an_awkward_run_is_whole_and_below_five_megabytes(trained, tmp_path, count):
    classes = [f"<script>{number}</script>&$x_{{" for number in range(count)]
    drawn = report(*awkward(trained, classes, right=False), tmp_path)
    assert drawn >= {
        "mistakes.jpg",
        "least_certain.jpg",
        "prediction_grid.jpg",
        "augmentation.jpg",
        "confusion.png",
    }
    page = (tmp_path / "report.html").read_text()
    assert len(page) < MOST_REPORT_BYTES
    assert "<script" not in page
    for kind, ending in (("png", ".png"), ("jpeg", ".jpg")):
        files = [name for name in drawn if name.endswith(ending)]
        assert page.count(f'src="data:image/{kind};base64,') == len(files) > 3
    assert "<script" not in (tmp_path / "model_card.md").read_text()


def test_perfect_run_on_one_class_has_no_mistakes_and_no_curves_to_draw(trained, tmp_path):
    drawn = report(*awkward(trained, ["cats", "dogs"], right=True), tmp_path)
    assert not drawn & {"mistakes.jpg", "thresholds.png"}
    assert "None: every test picture was answered right." in (tmp_path / "report.html").read_text()


def test_features_of_untouched_pictures_show_no_augmentation(trained, tmp_path):
    examples, ledger, config, _ = awkward(trained, ["cats", "dogs"], right=True)
    fast = asdict(config) | {
        "variant": "transfer",
        "recipe": "fast",
        "augmentation": "",
        "head": "wide",
    }
    for views, drawn in ((1, False), (2, True)):
        config = Config(**fast | {"feature_views": views})
        draw_data(config, run_in(tmp_path), SimpleNamespace(examples=examples, ledger=ledger))
        assert (tmp_path / "pictures" / "augmentation.jpg").exists() == drawn

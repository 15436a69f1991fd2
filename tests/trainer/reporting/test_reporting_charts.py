"""The charts of a run: drawn whatever the classes are called, however many there are, however short
the training.
"""

import numpy as np
import pytest
from PIL import Image

from trainer.reporting import charts, style

HARD = [
    "a_{b$",
    "$x^$",
    "<b>&\"'",
    "猫 \N{CAT FACE}",
    "\\frac{",
    "n02085620-Chihuahua with a very long name indeed",
]


def read(path):
    """Pixels of a PNG file, once its format and its bytes are seen to be sane."""
    assert 1_000 < path.stat().st_size < style.MOST_CHART_BYTES
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert 350 <= image.width <= 1000
        return np.asarray(image.convert("RGB"))


def shows(pixels, color):
    rgb = [int(color[at : at + 2], 16) for at in (1, 3, 5)]
    return int((pixels == rgb).all(axis=-1).sum())


def history(epochs):
    falling = np.linspace(0.9, 0.1, epochs).tolist()
    return dict.fromkeys(("accuracy", "loss", "validation_accuracy", "validation_loss"), falling)


@pytest.mark.parametrize("epochs", [1, 20])
def test_training_curves_show_both_series(epochs, tmp_path):
    charts.training_curves(history(epochs), 0.5, epochs, tmp_path / "curves.png")
    pixels = read(tmp_path / "curves.png")
    assert min(shows(pixels, style.BLUE), shows(pixels, style.VERMILION)) > 50


def matrix(names, path):
    per_class = {name: {"n": 10 * (number != 1), "correct": 5} for number, name in enumerate(names)}
    confused = [{"true": names[-1], "predicted": names[0], "n": 3}]
    charts.confusion_matrix(per_class, confused, path)
    return read(path)


LONG = [f"golden retriever {what} of the northern hills" for what in ("puppy", "adult")]


@pytest.mark.parametrize("names", [HARD, ["cats", "dogs"], LONG], ids=["hard", "two", "long"])
def test_confusion_matrix_is_drawn_with_an_empty_class(names, tmp_path):
    matrix(names, tmp_path / "matrix.png")


def test_confusion_matrix_of_two_hundred_classes_stops_at_ten(tmp_path):
    many = matrix([f"class {number}" for number in range(200)], tmp_path / "many.png")
    ten = matrix([f"class {number}" for number in range(10)], tmp_path / "ten.png")
    assert many.shape[0] / many.shape[1] == pytest.approx(ten.shape[0] / ten.shape[1], rel=0.05)


def test_curves_of_a_judgement_are_drawn(trained, tmp_path):
    result = trained.result
    charts.threshold_curves(result["curves"], tmp_path / "curves.png")
    charts.reliability_diagram(result["calibration"], tmp_path / "reliability.png")
    for name in ("curves", "reliability"):
        assert shows(read(tmp_path / f"{name}.png"), style.BLUE) > 50


def test_one_test_picture_is_drawn(tmp_path):
    bins = [{"n": 1, "low": 0.0, "confidence": 0.01, "accuracy": 0.0, "interval_95": [0, 0.79]}]
    one = {"error": 0.01, "bins": bins}
    charts.reliability_diagram({"before": one, "after": one}, tmp_path / "reliability.png")
    read(tmp_path / "reliability.png")


@pytest.mark.parametrize("epochs", [1, 20])
def test_comparison_shows_every_variant(epochs, tmp_path):
    run = {"test": {"accuracy": 0.7, "interval_95": [0.6, 0.8]}, "history": history(epochs)}
    runs = {"plain": [run] * 3, "augmented": [run], "preprocessed": [run], "transfer": [run] * 12}
    charts.compared_accuracies(runs, tmp_path / "accuracies.png")
    charts.compared_curves(runs, tmp_path / "curves.png")
    read(tmp_path / "curves.png")
    costs = {
        f"model {number}": {
            "latency_ms": 2.0 * number,
            "size_bytes": 10_000_000,
            "test": {"mean": 0.8 + number / 100},
        }
        for number in range(9)
    }
    charts.compared_costs(costs, tmp_path / "costs.png")
    read(tmp_path / "costs.png")
    looks = [charts._look(number) for number in range(16)]
    assert len(set(looks)) == 16
    pixels = read(tmp_path / "accuracies.png")
    assert all(
        shows(pixels, color) > 50
        for color in (style.GREY, style.VERMILION, style.GREEN, style.BLUE)
    )

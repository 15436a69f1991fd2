"""How good a model is: its predictions, and all that follows from them."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config import Config
from trainer.data import splits
from trainer.data.dataset import Dataset
from trainer.data.ledger import Picture
from trainer.evaluation import wilson_interval
from trainer.evaluation.calibration import (
    Doubt,
    Familiarity,
    fit_temperature,
    judge_unsure,
    learn_familiarity,
    reliability,
    threshold_curves,
)
from trainer.session import Session
from trainer.training import Trained
from trainer.variants.objective import Objective
from whisker_ml.terminal import progress

logger = logging.getLogger(__name__)

_DRAWS = 1000
# Parts on a side. As many as a backbone has places in its last layer at 160 pixels.
PARTS = 5


def evaluate(
    objective: Objective, classes: Sequence[str], labels: np.ndarray, logits: np.ndarray
) -> dict[str, Any]:
    """Judges the predictions on one split.

    Args:
        objective: turns logits into predictions and losses.
        classes: names in the order of the labels.
        labels: int32 [n], 0…K-1; at least one.
        logits: float32 [n, units].

    Returns:
        `n`, `accuracy`, `interval_95`, `loss` in nats; `balanced_accuracy` (mean recall) and
        `macro_f1` (mean F1), each over the classes that have one; `top_5_accuracy` (None below 6
        classes); `per_class` with `n`, `correct`, `recall` and its `interval_95` (None without
        pictures), `predicted` (how often the model says this class), `precision` (None where it
        never does) and `f1` (None where the class is neither there nor predicted);
        `recall_spread_by_chance`, what the
        distance between the highest and the lowest recall stays below in 95 of 100 cases where all
        classes are equally hard; and `confused`, the cells of the confusion matrix beside its
        diagonal that are not 0, as `true`, `predicted`, `n`, the largest first.
    """
    predictions = objective.predictions(logits).numpy()
    size = len(classes)
    matrix = np.bincount(labels * size + predictions, minlength=size**2).reshape(size, size)
    totals, correct = matrix.sum(axis=1), matrix.diagonal()
    per_class = {}
    counts = np.stack([totals, matrix.sum(axis=0), correct], axis=1).tolist()
    for name, (total, said, right) in zip(classes, counts, strict=True):
        per_class[name] = {
            "n": total,
            "correct": right,
            "recall": _share(right, total),
            "interval_95": list(wilson_interval(right, total)) if total else None,
            "predicted": said,
            "precision": _share(right, said),
            "f1": _share(2 * right, total + said),
        }
    confused = [
        {"true": classes[true], "predicted": classes[said], "n": int(matrix[true, said])}
        for true, said in np.argwhere(matrix)
        if true != said
    ]
    accuracy = float(correct.sum() / len(labels))
    # Stable, so that a tie goes to the first class, as in the prediction.
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    among_five = float((ranked == labels[:, None]).any(axis=1).mean())
    seen = totals[totals > 0]
    recalls = np.random.default_rng(0).binomial(seen, accuracy, (_DRAWS, len(seen))) / seen
    return {
        "n": len(labels),
        "accuracy": accuracy,
        "interval_95": list(wilson_interval(int(correct.sum()), len(labels))),
        "loss": float(tf.reduce_mean(objective.loss(labels, logits))),
        "balanced_accuracy": _mean(per_class, "recall"),
        "macro_f1": _mean(per_class, "f1"),
        "top_5_accuracy": among_five if size > 5 else None,
        "per_class": per_class,
        "recall_spread_by_chance": float(np.quantile(np.ptp(recalls, axis=1), 0.95)),
        "confused": sorted(confused, key=lambda cell: -cell["n"]),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(per_class: Mapping[str, Mapping[str, Any]], number: str) -> float:
    return mean(found[number] for found in per_class.values() if found[number] is not None)


MOST_LISTED = 12
# Training pictures that are enough to know what is familiar, spread over all of them.
_MOST_LEARNT = 10_000
# Lists of test pictures.
SHOWN = ("at_random", "mistakes", "least_certain")


@dataclass(frozen=True)
class Predicted:
    """What a model says of the pictures of a split, n of them, at least one.

    Attributes:
        pictures: which.
        labels: their class numbers, int32 [n].
        logits: float32 [n, units].
        familiarity: of their features, float32 [n]; None: the model has no backbone.
    """

    pictures: Sequence[Picture]
    labels: np.ndarray
    logits: np.ndarray
    familiarity: np.ndarray | None = None


@dataclass(frozen=True)
class Judged:
    """How good a model is.

    Attributes:
        numbers: as `judge_predictions` gives them.
        objective: the model's, with the temperature that fits the validation pictures.
        doubt: says when the model's answers are not sure.
        test_set_evaluations: how often a model was judged on this frozen test set; None where the
            split is not frozen.
    """

    numbers: dict[str, Any]
    objective: Objective
    doubt: Doubt
    test_set_evaluations: int | None


def judge(config: Config, session: Session, data: Dataset, trained: Trained) -> Judged:
    """Predicts the validation and the test pictures, once, and judges the model by them.

    Args:
        config: of the run.
        session: of the run; its folder gets ``predictions.jsonl``.
        data: the pictures.
        trained: the model.
    """
    ledger, examples, objective = data.ledger, data.examples, trained.objective
    familiarity: Familiarity | None = None
    predicted, rows = [], []
    for split in ("validation", "test"):
        indices = examples.indices(split)
        pictures = [ledger.pictures[index] for index in indices]
        logits, features = trained.predict(indices)
        known, scores = None, [None] * len(indices)
        if features is not None:
            if familiarity is None:
                train = examples.indices("train")
                spread = np.linspace(0, len(train) - 1, min(len(train), _MOST_LEARNT)).astype(int)
                familiarity = learn_familiarity(trained.predict(train[spread])[1])
            known = familiarity.of(features).numpy()
            scores = known.tolist()
        predicted.append(Predicted(pictures, examples.labels(indices), logits, known))
        answers = objective.predictions(logits).numpy()
        rows += [
            {
                "sha256": picture.sha256,
                "split": split,
                "label": picture.label,
                "predicted": ledger.classes[answer],
                "logits": row,
                "familiarity": score,
            }
            for picture, answer, row, score in zip(
                pictures, answers, logits.tolist(), scores, strict=True
            )
        ]
    session.folder.write_predictions(rows)
    numbers = judge_predictions(objective, ledger.classes, *predicted, seed=config.seed)
    evaluations = None
    if data.pictures.frozen:
        folder = session.folder
        evaluations = splits.count_test_set_evaluation(data.data, ledger, folder.address, folder.id)
        logger.info("evaluation %d of the frozen test set", evaluations)
    session.clock.stop("evaluate")
    temperature, unsure = numbers["calibration"]["temperature"], numbers["unsure"]
    lowest = unsure["lowest_familiarity"]
    # Without a threshold nobody has to know it.
    doubt = Doubt(unsure["lowest_probability"], lowest or 0.0, familiarity if lowest else None)
    return Judged(numbers, replace(objective, temperature=temperature), doubt, evaluations)


def listed_pictures(data: Dataset, rows: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """Pixels of the test pictures that a list of `judge_predictions` holds, uint8
    [n, size, size, 3].
    """
    places = {picture.sha256: index for index, picture in enumerate(data.ledger.pictures)}
    return data.examples.pictures(np.array([places[row["sha256"]] for row in rows]))


def explain(session: Session, data: Dataset, trained: Trained, judged: Judged) -> None:
    """Adds to every test picture that the report shows what the answer rests on: `importance` of
    its parts, as the function of that name gives it.
    """
    shown = defaultdict(list)
    for name in SHOWN:
        for row in judged.numbers[name]:
            shown[row["sha256"]].append(row)
    rows = list(shown.values())
    pixels = listed_pictures(data, [same[0] for same in rows])
    described = progress(rows, desc="what answers rest on", unit=" pictures")
    for same, picture in zip(described, pixels, strict=True):
        parts = importance(trained.classify, trained.objective, picture).round(3).tolist()
        for row in same:
            row["importance"] = parts
    session.clock.stop("explain")


def judge_predictions(
    objective: Objective,
    classes: Sequence[str],
    validation: Predicted,
    test: Predicted,
    *,
    seed: int,
) -> dict[str, Any]:
    """Judges a model; the temperature comes from the validation pictures, all else that it changes
    from the test.

    Args:
        objective: of the model as it was trained.
        classes: names in the order of its outputs.
        validation: what it says of the validation pictures.
        test: what it says of the test pictures.
        seed: of the choice of test pictures to show.

    Returns:
        `validation` and `test` as `evaluate` has them, of the logits as they are; and with the
        temperature `calibration` (`temperature`, `fitted_on`, and `before` and `after` it `loss`
        and what `reliability` tells), `curves`, `unsure` (as `judge_unsure` gives it),
        and test pictures `at_random`,
        `mistakes` (the surest first) and `least_certain`, each as `sha256`, `path`, `label`,
        `predicted`, `probability`.
    """
    temperature = fit_temperature(objective, validation.labels, validation.logits)
    scaled = replace(objective, temperature=temperature)
    predictions = objective.predictions(test.logits).numpy()
    right = predictions == test.labels
    calibration: dict[str, Any] = {"temperature": temperature, "fitted_on": len(validation.labels)}
    for moment, each in (("before", objective), ("after", scaled)):
        probabilities = each.probabilities(test.logits).numpy()
        confidence = probabilities.max(axis=1)
        loss = float(tf.reduce_mean(each.loss(test.labels, test.logits)))
        calibration[moment] = {"loss": loss, **reliability(len(classes), right, confidence)}
    chosen_on = [scaled.probabilities(validation.logits).numpy().max(axis=1)]
    scores = [confidence]
    if validation.familiarity is not None and test.familiarity is not None:
        chosen_on.append(validation.familiarity)
        scores.append(test.familiarity)

    def listed(places: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "sha256": test.pictures[place].sha256,
                "path": test.pictures[place].path,
                "label": test.pictures[place].label,
                "predicted": classes[predictions[place]],
                "probability": float(confidence[place]),
            }
            for place in places[:MOST_LISTED].tolist()
        ]

    at_random = np.sort(np.random.default_rng(seed).permutation(len(right))[:MOST_LISTED])
    order = np.argsort(-confidence, kind="stable")
    return {
        "validation": evaluate(objective, classes, validation.labels, validation.logits),
        "test": evaluate(objective, classes, test.labels, test.logits),
        "calibration": calibration,
        "curves": threshold_curves(classes, test.labels, probabilities),
        "unsure": judge_unsure(chosen_on, scores, right),
        "at_random": listed(at_random),
        "mistakes": listed(order[~right[order]]),
        "least_certain": listed(order[::-1]),
    }


# Which parts of a picture an answer rests on: those without which the model is less sure of it.


def importance(
    classify: Callable[[np.ndarray], np.ndarray], objective: Objective, pixels: np.ndarray
) -> np.ndarray:
    """Blurs each part of a picture in turn, with soft edges, and sees what becomes of the answer
    ("occlusion": Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks").

    Blurring the five most important parts of 25 changes the answer more than blurring any five far
    more often than with Grad-CAM (docs/benchmarks.md, "Answers").

    Args:
        classify: gives the logits, float32 [n, units], of pixels, float32 [n, size, size, 3] in
            0…255.
        objective: turns logits into the answer.
        pixels: of one picture, [size, size, 3] in 0…255.

    Returns:
        By how much the log-odds of the answer fall without each part: float32 [PARTS, PARTS].
    """
    shown = pixels.astype(np.float32)
    covers = covered(shown, np.eye(PARTS**2).reshape(-1, PARTS, PARTS))
    logits = classify(np.concatenate([shown[np.newaxis], covers]))
    odds = log_odds(objective, logits, int(objective.predictions(logits[:1])[0]))
    return (odds[0] - odds[1:]).reshape(PARTS, PARTS)


def covered(pixels: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Blurs parts of a picture.

    Args:
        pixels: float32 [size, size, 3].
        parts: which: 0 or 1, [n, PARTS, PARTS].

    Returns:
        float32 [n, size, size, 3].
    """
    size = pixels.shape[:2]
    coarse = tf.image.resize(pixels, (PARTS, PARTS), "area")
    blurred = tf.image.resize(coarse, size, "bicubic")
    cover = tf.image.resize(parts[..., np.newaxis].astype(np.float32), size, "bilinear")
    return (pixels + (blurred - pixels) * cover).numpy()


def log_odds(objective: Objective, logits: np.ndarray, answer: int) -> np.ndarray:
    """How sure a model is of an answer, without an end: float32 [n] of logits [n, units]."""
    if objective.units == 1:
        logits = np.pad(logits, ((0, 0), (1, 0)))
    others = np.delete(logits, answer, axis=1)
    return logits[:, answer] - tf.reduce_logsumexp(others, axis=1).numpy()

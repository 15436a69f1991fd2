"""Everything that a run says of its model, computed from the rows of `predictions.jsonl` alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.evaluation.calibration import fit_temperature, reliability
from trainer.evaluation.curves import coverage_curve, threshold_curves
from trainer.evaluation.metrics import evaluate
from trainer.variants.head import Head

MOST_LISTED = 12


def judge(
    head: Head,
    classes: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    paths: Mapping[str, str],
    *,
    seed: int,
) -> dict[str, Any]:
    """Judges a model; the temperature comes from the validation pictures, all else that it changes
    from the test.

    Args:
        head: of the model as it was trained.
        classes: names in the order of its outputs.
        rows: of `predictions.jsonl`: `sha256`, `split`, `label`, `logits`.
        paths: of the pictures, by hash.
        seed: of the choice of test pictures to show.

    Returns:
        `validation` and `test` as `evaluate` has them, of the logits as they are; and with the
        temperature `calibration` (`temperature`, `fitted_on`, and `before` and `after` it `loss`
        and what `reliability` tells), `curves`, `coverage`, and test pictures `at_random`,
        `mistakes` (the surest first) and `least_certain`, each as `sha256`, `path`, `label`,
        `predicted`, `probability`.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    split: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in ("validation", "test"):
        own = [row for row in rows if row["split"] == name]
        labels = np.array([numbers[row["label"]] for row in own], np.int32)
        split[name] = labels, np.array([row["logits"] for row in own], np.float32)

    scaled = replace(head, temperature=fit_temperature(head, *split["validation"]))
    labels, logits = split["test"]
    predictions = head.predictions(tf.constant(logits)).numpy()
    right = predictions == labels
    calibration: dict[str, Any] = {
        "temperature": scaled.temperature,
        "fitted_on": len(split["validation"][0]),
    }
    for moment, each in (("before", head), ("after", scaled)):
        probabilities = each.probabilities(tf.constant(logits)).numpy()
        confidence = probabilities.max(axis=1)
        loss = float(tf.reduce_mean(each.loss(tf.constant(labels), tf.constant(logits))))
        calibration[moment] = {"loss": loss, **reliability(len(classes), right, confidence)}

    test = [row for row in rows if row["split"] == "test"]

    def listed(places: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "sha256": test[place]["sha256"],
                "path": paths[test[place]["sha256"]],
                "label": test[place]["label"],
                "predicted": classes[predictions[place]],
                "probability": float(confidence[place]),
            }
            for place in places[:MOST_LISTED].tolist()
        ]

    at_random = np.sort(np.random.default_rng(seed).permutation(len(test))[:MOST_LISTED])
    order = np.argsort(-confidence, kind="stable")
    return {
        **{name: evaluate(head, classes, *each) for name, each in split.items()},
        "calibration": calibration,
        "curves": threshold_curves(classes, labels, probabilities),
        "coverage": coverage_curve(right, confidence),
        "at_random": listed(at_random),
        "mistakes": listed(order[~right[order]]),
        "least_certain": listed(order[::-1]),
    }

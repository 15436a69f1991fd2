"""Labels that look wrong: every training and validation picture is judged by a head that was fitted
without it. Test pictures are neither judged nor used.

The head is ridge regression on features of the frozen backbone: what it answers for a picture that
is left out has a closed form (Rifkin and Lippert, "Notes on Regularized Least Squares", 2007), so
that nothing is trained. A copy of a picture with the same wrong label vouches for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.config import Config
from trainer.data import dataset, sources
from trainer.data.dataset import Dataset
from trainer.data.ledger import Picture
from trainer.devices import prepare
from trainer.run_folder import scratch_run
from trainer.session import Clock, Session, Stop, cache_folder
from trainer.training.features import extract, split_backbone
from trainer.variants import HEADS
from trainer.variants.models import build
from trainer.variants.objective import Objective
from whisker_ml import files

# Ridge, of the mean variance of a feature; the one with the lowest error of left out pictures.
_RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# A class of fewer pictures says too little about each of them.
FEWEST = 5


class Suspect(NamedTuple):
    """A picture whose label the head disagrees with.

    Attributes:
        position: in the ledger.
        picture: what the ledger says of it.
        suggestion: class that the head prefers.
        margin: by how much, from 0; 1 is the distance between a class and another.
    """

    position: int
    picture: Picture
    suggestion: str
    margin: float


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        data: the pictures.
        judged: how many.
        too_small: pictures of classes that are too small to be judged, by class.
        suspects: the worst first.
    """

    data: Dataset
    judged: int
    too_small: dict[str, int]
    suspects: list[Suspect]


def leave_one_out(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """What ridge regression on all other pictures answers for each; every class weighs the same.

    Args:
        features: float [n, m].
        labels: class numbers, int [n].
        classes: how many there are.

    Returns:
        float64 [n, classes], near 1 for the class that a picture looks like and 0 for others.
    """
    x = features.astype(np.float64)
    # Length 1: a picture with large features would have too much influence.
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    targets = np.eye(classes)[labels]
    weights = 1 / np.bincount(labels, minlength=classes)[labels]
    weights /= weights.sum()
    x -= weights @ x
    mean = weights @ targets
    values, vectors = np.linalg.eigh(x.T @ (x * weights[:, None]))
    x = x @ vectors
    slopes = x.T @ ((targets - mean) * weights[:, None])
    best, lowest = targets, np.inf
    for ridge in _RIDGES:
        inverse = 1 / (np.maximum(values, 0) + ridge * max(values.mean(), 1e-12))
        influence = weights * (1 + np.einsum("ij,ij,j->i", x, x, inverse))
        fitted = mean + x @ (slopes * inverse[:, None])
        left_out = (fitted - influence[:, None] * targets) / (1 - influence[:, None])
        error = float(weights @ ((left_out - targets) ** 2).sum(axis=1))
        if error < lowest:
            best, lowest = left_out, error
    return best


def rank(
    features: np.ndarray, labels: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks pictures by how much the others disagree with their labels.

    Args:
        features: float [n, m].
        labels: class numbers, int [n].
        classes: how many there are.

    Returns:
        Positions of the pictures, the worst first; for each picture the best other class and by how
        much that is preferred to its label, below 0 where it is not.
    """
    answers = leave_one_out(features, labels, classes)
    everyone = np.arange(len(labels))
    given = answers[everyone, labels]
    answers[everyone, labels] = -np.inf
    margins = answers.max(axis=1) - given
    return np.argsort(-margins, kind="stable"), answers.argmax(axis=1), margins


def find(config: Config) -> Found:
    """Finds the pictures whose label the others disagree with; their features are computed, or
    found computed.

    Args:
        config: of a run of `transfer`.

    Raises:
        WhiskerError: pictures or weights are not to be had.
    """
    devices = prepare(config)
    with scratch_run(devices.names) as folder:
        session = Session(devices, folder, Clock(), Stop(), cache_folder(config.cache_dir))
        weights = sources.backbone_weights(config, session.downloads)
        data = dataset.load(config, session)
        ledger, classes = data.ledger, data.ledger.classes
        model = build(
            config.variant,
            config.image_size,
            Objective(len(classes)),
            seed=config.seed,
            weights=weights,
            precision=devices.precision,
            backbone=config.backbone,
            # Of one layer: eigenvectors of all features of several take long.
            head=HEADS["wide"],
        )
        features = extract(
            data.examples,
            ledger,
            split_backbone(model)[0],
            views=1,
            seed=config.seed,
            cache_folder=session.downloads / "features",
        )
    pool = np.concatenate([features.indices(split) for split in ("train", "validation")])
    labels = data.examples.labels(pool)
    counts = np.bincount(labels, minlength=len(classes))
    large = np.flatnonzero(counts >= FEWEST)
    judged = np.isin(labels, large)
    pool = pool[judged]
    suspects = []
    if len(large) > 1:
        numbers = np.searchsorted(large, labels[judged])
        order, others, margins = rank(features.features(pool), numbers, len(large))
        suspects = [
            Suspect(
                int(pool[i]), ledger.pictures[pool[i]], classes[large[others[i]]], float(margins[i])
            )
            for i in order[: np.count_nonzero(margins > 0)]
        ]
    too_small = {
        name: int(count) for name, count in zip(classes, counts, strict=True) if count < FEWEST
    }
    return Found(data, len(pool), too_small, suspects)


def write_list(suspects: Sequence[Suspect], file: Path) -> None:
    """Writes the list that `--exclude` takes: ``SHA-256  path`` a line.

    Raises:
        OSError: it cannot be written.
    """
    lines = [
        f"# Delete the lines of pictures whose label is right; --exclude={file} leaves out the"
        " others.",
        # A name may hold a line's end; the hash is what counts.
        *(f"{each.picture.sha256}  {each.picture.path.replace(chr(10), ' ')}" for each in suspects),
    ]
    files.replace(file, ("\n".join(lines) + "\n").encode())

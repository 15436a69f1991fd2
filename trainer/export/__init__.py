"""Export: the SavedModel that takes picture bytes and answers labels. `write` is the front door."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import Config
from trainer.data.dataset import Dataset
from trainer.evaluation.judge import Judged
from trainer.evaluation.unsure import Doubt
from trainer.export import saved_model
from trainer.session import Session
from trainer.training import Trained
from trainer.variants.objective import Objective

logger = logging.getLogger(__name__)

# Test pictures that are timed in this process.
_TIMED = 20


@dataclass(frozen=True)
class Exported:
    """A model as it is published.

    Attributes:
        folder: the SavedModel.
        checkpoint: file with the same weights, in Keras' own format.
        objective: with the temperature that is in the graph.
        doubt: as it is in the graph.
        cost: `size_bytes`, `latency_ms` and `calls`, as `saved_model.measure` gives them.
        predict_test: gives the trained model's logits and features of the test pictures, from
            their pixels, in the ledger's order.
    """

    folder: Path
    checkpoint: Path
    objective: Objective
    doubt: Doubt
    cost: dict[str, Any]
    predict_test: Callable[[], tuple[np.ndarray, np.ndarray | None]]


def write(
    config: Config, session: Session, data: Dataset, trained: Trained, judged: Judged
) -> Exported:
    """Writes the SavedModel and `model.keras` into the run folder, and measures one answer.

    Args:
        config: of the run.
        session: of the run.
        data: the pictures.
        trained: the model.
        judged: says the temperature.
    """
    logger.info("exporting the model")
    folder, checkpoint = session.folder.file("export"), session.folder.file("model.keras")
    answer = saved_model.export(
        trained.model,
        judged.objective,
        data.ledger.classes,
        config.image_size,
        folder,
        config.max_pixels,
        judged.doubt,
    )
    trained.model.save(checkpoint)
    test = [picture for picture in data.ledger.pictures if picture.split == "test"]
    timed = [data.pictures.read(picture.path) for picture in test[:_TIMED]]
    cost = saved_model.measure(folder, answer, timed)
    session.clock.stop("export")
    return Exported(
        folder,
        checkpoint,
        judged.objective,
        judged.doubt,
        cost,
        lambda: trained.predict_from_pixels(data.examples.indices("test")),
    )

"""Export: the SavedModel that takes picture bytes and answers labels. `write` is the front door."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import Config
from trainer.data.dataset import Dataset
from trainer.evaluation.calibration import Doubt
from trainer.evaluation.judge import Judged
from trainer.export import provenance, saved_model
from trainer.export.verify import Starting, starting
from trainer.session import Session
from trainer.training import Trained
from trainer.training.checkpoints import writing
from trainer.variants.objective import Objective
from whisker_ml import files

logger = logging.getLogger(__name__)

# Test pictures that are timed in this process.
_TIMED = 20
# The smallest of so many are what warms a model up.
_WARMUP_CANDIDATES = 64


@dataclass(frozen=True)
class Exported:
    """A model as it is published.

    Attributes:
        folder: the SavedModel.
        checkpoint: file with the same weights, in Keras' own format.
        objective: with the temperature that is in the graph.
        doubt: as it is in the graph.
        cost: `size_bytes`, `latency_ms` and `calls`, as `saved_model.measure` gives them.
        warmup_records: that travel with it.
        candidate: the server that loads it meanwhile; None where it is not to be published.
        predict_test: gives the trained model's logits and features of the test pictures, from
            their pixels, in the ledger's order.
    """

    folder: Path
    checkpoint: Path
    objective: Objective
    doubt: Doubt
    cost: dict[str, Any]
    warmup_records: int
    candidate: Starting | None
    predict_test: Callable[[], tuple[np.ndarray, np.ndarray | None]]


def write(
    config: Config, session: Session, data: Dataset, trained: Trained, judged: Judged
) -> Exported:
    """Writes the SavedModel, with warm-up records and the rows of the ledger, and `model.keras`
    into the run folder, and measures one answer.

    Args:
        config: of the run.
        session: of the run.
        data: the pictures.
        trained: the model.
        judged: says the temperature.
    """
    logger.info("exporting the model")
    # What it imports takes seconds, and so does loading: both while this process goes on.
    candidate = None
    if config.model_dir:
        candidate = session.servers.enter_context(starting("the exported model"))
    folder, checkpoint = session.folder.file("export"), session.folder.file("model.keras")
    pictures, read = data.ledger.pictures, data.pictures.read
    # By hash, and so a sample of all classes that is the same at every run.
    training = sorted(
        (picture for picture in pictures if picture.split == "train"),
        key=lambda picture: picture.sha256,
    )
    encoded = [read(picture.path) for picture in training[:_WARMUP_CANDIDATES]]
    with writing(str(folder)):
        answer = saved_model.export(
            trained.model,
            judged.objective,
            data.ledger.classes,
            config.image_size,
            folder,
            config.max_pixels,
            judged.doubt,
            keep=session.folder.resumed,
        )
        warmup_records = provenance.write_warmup(folder, config.model_name, encoded)
        provenance.write_ledger(data.ledger, folder)
    # Before the server loads: its load would be measured too.
    test = (picture for picture in pictures if picture.split == "test")
    timed = [read(picture.path) for picture in islice(test, _TIMED)]
    cost = saved_model.measure(folder, answer, timed)
    if candidate:
        candidate.show(str(folder))
    # A version that the run had published before it was killed tells of this very file.
    if not (session.folder.resumed and checkpoint.exists()):
        whole = checkpoint.with_name(f".{checkpoint.name}")
        with writing(str(checkpoint)):
            trained.model.save(whole)
            files.synchronise(whole)
            whole.rename(checkpoint)
    session.clock.stop("export")
    return Exported(
        folder,
        checkpoint,
        judged.objective,
        judged.doubt,
        cost,
        warmup_records,
        candidate,
        lambda: trained.predict_from_pixels(data.examples.indices("test")),
    )

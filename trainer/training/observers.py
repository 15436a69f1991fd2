"""Where the progress of training is shown: the terminal, `metrics.jsonl`, and TensorBoard."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from trainer.config import Config
from trainer.training.checkpoints import writing
from whisker_ml import files
from whisker_ml.terminal import progress

logger = logging.getLogger(__name__)


class Observers:
    """Shows steps and epochs.

    Args:
        config: says how many epochs there are in all, and which steps to profile for TensorBoard.
        pictures: training pictures in an epoch.
        folder: of the run; it gets `metrics.jsonl`, with one JSON object a line and epoch, and
            TensorBoard's event files.
    """

    def __init__(self, config: Config, pictures: int, folder: Path) -> None:
        self._epochs = config.epochs + config.fine_tune_epochs
        self._pictures = pictures
        self._metrics_file = folder / "metrics.jsonl"
        self._tensorboard = str(folder / "tensorboard")
        with writing(self._tensorboard):
            self._writer = tf.summary.create_file_writer(self._tensorboard)
        # In a graph: a step on features takes little more than writing its loss would without.
        self._write_losses = tf.function(
            _losses,
            input_signature=[tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.int64)],
        )
        self._profile = config.profile_window
        self._profiling = False
        self._step = 0
        self._bar: Any = None

    def steps(self, epoch: int, step: int, sums: np.ndarray) -> None:
        """Shows some steps.

        Args:
            epoch: number of the epoch that they belong to, from 0.
            step: number of the last of them, from 1.
            sums: float32 [steps, 4], as `Loop.train` gives them.
        """
        self._step = step
        with writing(self._tensorboard), self._writer.as_default():
            self._write_losses(sums[:, 0] / sums[:, 2], step - len(sums) + 1)
        if self._bar is None:
            name = f"epoch {epoch + 1}/{self._epochs}"
            self._bar = progress(desc=name, total=self._pictures, unit=" pictures")
        self._bar.update(int(sums[:, 2].sum()))
        if self._bar.n >= self._pictures:  # validation follows
            self._bar.close()
        if self._profile is None:
            return
        first, last = self._profile
        # A call may pass over all of them: the next one is profiled then.
        if not self._profiling and step >= first:
            tf.profiler.experimental.start(self._tensorboard)
            self._profiling = True
        elif self._profiling and step >= last:
            tf.profiler.experimental.stop()
            self._profiling = False
            self._profile = None
            logger.info("profile of steps %d to %d written for TensorBoard", first, step)

    def epoch(self, epoch: int, rows: Sequence[Mapping[str, float]]) -> None:
        """Shows the end of an epoch.

        Args:
            epoch: its number, from 1.
            rows: what was measured, by name, in every epoch so far.
        """
        row = rows[-1]
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        # All of it: a resumed run does an epoch again whose line may be there already.
        lines = "".join(
            json.dumps(
                {
                    "epoch": number,
                    # Every epoch has as many steps.
                    "step": self._step * number // epoch,
                    "pictures_per_second": self._pictures / row["seconds"],
                    **row,
                }
            )
            + "\n"
            for number, row in enumerate(rows, start=1)
        )
        files.replace(self._metrics_file, lines.encode())
        with writing(self._tensorboard), self._writer.as_default():
            for name, value in row.items():
                _scalar(f"epoch/{name}", value, epoch)
            self._writer.flush()
        logger.info(
            f"epoch {epoch:{len(str(self._epochs))}d}/{self._epochs}  loss {row['loss']:.3f} "
            f" accuracy {row['accuracy']:.3f}  validation loss {row['validation_loss']:.3f} "
            f" accuracy {row['validation_accuracy']:.3f}  {self._pictures / row['seconds']:.0f}"
            " pictures/s"
        )


def _losses(values: tf.Tensor, first: tf.Tensor) -> None:
    for index in tf.range(tf.size(values, tf.int64)):
        _scalar("step/loss", values[index], first + index)


def _scalar(tag: str, value: float | tf.Tensor, step: int | tf.Tensor) -> None:
    # tf.summary.scalar is TensorBoard's own, and a run does not need TensorBoard installed.
    metadata = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": "scalars"})
    tf.summary.write(tag, tf.convert_to_tensor(value, tf.float32), step=step, metadata=metadata)


def show_pictures(folder: Path, tensorboard: Path, step: int) -> None:
    """Lets TensorBoard show the PNG and JPEG files of a folder.

    Args:
        folder: their folder.
        tensorboard: folder of TensorBoard's event files.
        step: training steps done when they were drawn.
    """
    # As for scalars: what tf.summary.image would write, without TensorBoard. Width, height, then
    # encoded pictures.
    metadata = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": "images"})
    with writing(str(tensorboard)):
        writer = tf.summary.create_file_writer(str(tensorboard))
        with writer.as_default():
            for path in sorted(folder.glob("*.[jp][pn]g")):
                with Image.open(path) as picture:
                    width, height = picture.size
                tf.summary.write(
                    f"pictures/{path.stem}",
                    [str(width), str(height), path.read_bytes()],
                    step=step,
                    metadata=metadata,
                )
        writer.close()

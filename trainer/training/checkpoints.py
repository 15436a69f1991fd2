"""Checkpoints: all that training needs to resume at the very batch, written so that a kill at any
moment costs nothing.

A checkpoint holds every variable of the model (the states of its random streams among them, which
neither Keras' weights nor `tf.train.Checkpoint(model)` would save), every variable of the
optimizer, and the loop's own progress. Its index is the last file to appear, so that one without an
index is none.
"""

import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from trainer.errors import RunError

logger = logging.getLogger(__name__)

_KEPT = 3

# How TensorFlow's checkpoint reader says that a file is cut short, damaged, or of something else.
_UNREADABLE = (tf.errors.OpError, AssertionError, IndexError, KeyError, RuntimeError, ValueError)


@contextmanager
def writing(what: str, kept: str = "") -> Iterator[None]:
    """Turns what a disk refuses, to TensorFlow or to Python, into a RunError.

    Args:
        what: is written, with its place.
        kept: what is there all the same, with a colon.
    """
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        reason = str(getattr(error, "message", error)).splitlines()[0]
        raise RunError(
            f"{what} cannot be written ({reason}); {kept}free space and give the same command again"
        ) from error


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they are; made if missing.
        model: whose variables are saved.
        optimizer: likewise; built.
        prefix: of the names of files, which keeps the stages of a run apart.
        saved: called when a checkpoint is whole, for instance to copy it elsewhere.
    """

    def __init__(
        self,
        folder: Path,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        *,
        prefix: str = "",
        saved: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._step_prefix, self._best_prefix = f"{prefix}step-", f"{prefix}best-"
        self._saved = saved
        self._best_name = ""
        self._progress = tf.Variable("", trainable=False, name="progress")
        model_variables = [variable.value for variable in model.variables]
        self._best = tf.train.Checkpoint(model=model_variables)
        self._content = tf.train.Checkpoint(
            model=model_variables,
            optimizer=[variable.value for variable in optimizer.variables],
            progress=self._progress,
        )

    def save(self, step: int, progress: dict[str, Any]) -> None:
        """Writes a checkpoint, and removes all but the newest three.

        Args:
            step: training steps done; names the checkpoint.
            progress: what else is needed to resume; JSON values.

        Raises:
            RunError: it cannot be written; the one before it is still there.
        """
        self._progress.assign(json.dumps(progress))
        with self._errors(f"of step {step}"):
            self._content.write(str(self._folder / f"{self._step_prefix}{step:09d}"))
        self._remove_all_but(self._step_prefix, [path.name for path in self._paths()[-_KEPT:]])
        # Not before: the checkpoint before this one needs the best epoch of its time.
        if self._best_name:
            self._remove_all_but(self._best_prefix, [self._best_name])
        self._saved()

    def restore(self) -> dict[str, Any] | None:
        """Takes the newest checkpoint that is whole.

        Returns:
            Its progress, or None where there is no checkpoint.

        Raises:
            RunError: there are checkpoints, and none can be read.
        """
        paths = self._paths()
        for path in reversed(paths):
            try:
                self._content.read(str(path)).assert_consumed()
                return json.loads(self._progress.numpy())
            except _UNREADABLE as error:
                reason = str(getattr(error, "message", error)).splitlines()[0]
                logger.warning(
                    "checkpoint %s is damaged (%s); trying the one before", path.name, reason
                )
        if paths:
            raise RunError(
                f"{self._folder}: none of the {len(paths)} checkpoints can be read; remove the run"
                " folder to begin again"
            )
        return None

    def save_best(self, epoch: int) -> None:
        """Keeps the model's variables as those of the best epoch so far."""
        self._best_name = f"{self._best_prefix}{epoch:05d}"
        with self._errors(f"of the best epoch, {epoch},"):
            self._best.write(str(self._folder / self._best_name))

    def restore_best(self, epoch: int) -> None:
        """Gives the model the variables of the best epoch back."""
        path = self._folder / f"{self._best_prefix}{epoch:05d}"
        self._best.read(str(path)).assert_consumed()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        kept = "the one before it is kept: "
        with writing(f"{self._folder}: the checkpoint {what}", kept):
            self._folder.mkdir(parents=True, exist_ok=True)
            yield

    def _paths(self) -> list[Path]:
        return sorted(
            index.with_suffix("") for index in self._folder.glob(f"{self._step_prefix}*.index")
        )

    def _remove_all_but(self, prefix: str, names: Collection[str]) -> None:
        for path in self._folder.glob(f"{prefix}*"):
            # A folder is what TensorFlow was writing when it was killed.
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name.split(".")[0] not in names:
                path.unlink()

"""How the learning rate goes over a run: constant, cosine with warm-up, or lowered where learning
has stopped.
"""

from collections.abc import Sequence

import keras

from trainer.config import LearningRate

# Share of all steps in which the cosine schedule rises from 0 to its peak.
_WARM_UP = 0.1
# Keras' own defaults for ReduceLROnPlateau are 0.1 after 10 epochs, for runs of hundreds; runs here
# have tens.
_PLATEAU_FACTOR = 0.5
_PLATEAU_PATIENCE = 3


class Plateau:
    """Halves the learning rate after three epochs without a lower validation loss.

    It has no state of its own: what it does depends on the history alone, so that a resumed run
    does the same.
    """

    def adjust(
        self, optimizer: keras.optimizers.Optimizer, validation_loss: Sequence[float]
    ) -> None:
        """Lowers the optimizer's rate if it is time to.

        Args:
            optimizer: with a plain learning rate.
            validation_loss: of every epoch so far.
        """
        best = min(range(len(validation_loss)), key=validation_loss.__getitem__)
        waited = len(validation_loss) - 1 - best
        if waited and waited % _PLATEAU_PATIENCE == 0:
            optimizer.learning_rate = (
                keras.ops.convert_to_numpy(optimizer.learning_rate) * _PLATEAU_FACTOR
            )


def make_optimizer(
    rate: LearningRate, steps: int
) -> tuple[keras.optimizers.Optimizer, Plateau | None]:
    """Makes Adam with the schedule that `--learning_rate` names.

    Args:
        rate: schedule and peak.
        steps: of the whole run.

    Returns:
        The optimizer, and what adjusts it after each epoch, if anything does.
    """
    if rate.schedule == "cosine":
        warm_up = max(1, round(_WARM_UP * steps))
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, decay_steps=max(1, steps - warm_up), warmup_target=rate.peak, warmup_steps=warm_up
        )
        return keras.optimizers.Adam(schedule), None
    return keras.optimizers.Adam(rate.peak), Plateau() if rate.schedule == "plateau" else None

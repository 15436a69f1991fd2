"""The model variants: one table says what each of them is. Importing it imports no TensorFlow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# The notebook's settings. What a recipe leaves out is as here.
_NOTEBOOK = {
    "epochs": 20,
    "learning_rate": "0.001",
    "early_stopping": 0,
    "feature_views": 0,
    "fine_tune_epochs": 0,
    "augmentation": "light",
}
_BEST = {**_NOTEBOOK, "epochs": 60, "learning_rate": "cosine:0.001", "augmentation": "strong"}


@dataclass(frozen=True)
class Variant:
    """What one variant is, and what follows from it.

    Attributes:
        scaled: pixels are scaled to [-1, 1] inside the model.
        augmented: pictures are changed at random while it trains.
        backbone: a frozen backbone with ImageNet weights comes first.
        largest_first_loss: how far above ln K the loss of an untrained model may be, in nats; None:
            unscaled inputs make any loss possible.
        bfloat16: what has units for bfloat16 that make it faster without harm: ``gpu``, ``cpu``
            (with AMX).
        recipes: settings that each recipe decides; a recipe that is missing is not for this
            variant.
    """

    scaled: bool
    augmented: bool
    backbone: bool = False
    largest_first_loss: float | None = None
    bfloat16: frozenset[str] = frozenset()
    recipes: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"notebook": _NOTEBOOK, "best": _BEST}
    )


# An untrained head on scaled inputs is wrong by chance alone. A sigmoid before a from-logits loss,
# labels that do not fit the logits, or unscaled inputs are off by much more (KerasHub's guide
# printed 4.95 where ln 2 is 0.69). But the features of a trained backbone, of which the highest is
# taken, make untrained logits of several units either way.
#
# bfloat16: raw pixels make the first losses of `plain` about 20. One of 40 seeds lost all its units
# to them in bfloat16, none in float32, on the real cats and dogs. MobileNetV2's depthwise
# convolutions gain nothing from AMX: measured, 0.7 times the speed of float32.
#
# Fixed views are learned by heart sooner than fresh ones: a rate that falls to 0 keeps the last
# epochs from swinging. `best` is what benchmarks/results/accuracy.json shows.
VARIANTS: dict[str, Variant] = {
    "plain": Variant(
        scaled=False,
        augmented=False,
        recipes={
            "notebook": {**_NOTEBOOK, "augmentation": ""},
            "best": {**_BEST, "augmentation": ""},
        },
    ),
    "augmented": Variant(scaled=False, augmented=True, bfloat16=frozenset({"gpu", "cpu"})),
    "preprocessed": Variant(
        scaled=True,
        augmented=True,
        largest_first_loss=1.5,
        bfloat16=frozenset({"gpu", "cpu"}),
    ),
    "transfer": Variant(
        scaled=True,
        augmented=True,
        backbone=True,
        largest_first_loss=15.0,
        bfloat16=frozenset({"gpu"}),
        recipes={
            "notebook": _NOTEBOOK,
            "fast": {**_NOTEBOOK, "learning_rate": "cosine:0.001", "feature_views": 1},
            "best": {
                **_NOTEBOOK,
                "learning_rate": "cosine:0.001",
                "feature_views": 1,
                "fine_tune_epochs": 4,
                "augmentation": "strong",
            },
        },
    ),
}

RECIPES = tuple(dict.fromkeys(name for variant in VARIANTS.values() for name in variant.recipes))

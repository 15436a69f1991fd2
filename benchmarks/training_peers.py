"""The training recipe that people copy from Keras' tutorials, as it is: the peer of
`benchmarks.bench_training`.

  python -m benchmarks.training_peers --pictures=folder --variant=transfer --weights=file \\
    --epochs=20 --saved_model=folder

Nothing of Whisker is in it, and its faults are left in it: a sigmoid before a loss that expects
logits, pictures that are read and decoded anew in every epoch. It prints one JSON line at the end.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app, flags

if TYPE_CHECKING:
    import keras

IMAGE_SIZE = 160
BATCH_SIZE = 32


def main() -> None:
    """Entry point."""
    flags.DEFINE_string("pictures", None, "holds train, validation and test", required=True)
    flags.DEFINE_string("variant", "preprocessed", "which of the four models")
    flags.DEFINE_string("weights", "imagenet", "MobileNetV2 weights: imagenet, none or a file")
    flags.DEFINE_integer("epochs", 20, "passes over the training pictures")
    flags.DEFINE_integer("seed", 0, "of weights, order and augmentation")
    flags.DEFINE_string("saved_model", None, "folder to write", required=True)
    app.run(_train)


def _train(_: Sequence[str]) -> None:
    import keras

    values = flags.FLAGS
    pictures = Path(values.pictures)
    keras.utils.set_random_seed(values.seed)
    train = _pictures(pictures / "train")
    validation = _pictures(pictures / "validation")
    model = build(values.variant, None if values.weights == "none" else values.weights)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    clock = _training_clock()
    history = model.fit(train, validation_data=validation, epochs=values.epochs, callbacks=[clock])
    model.export(values.saved_model)
    # Judged when the SavedModel is on disk: the clock of the benchmark has stopped by then.
    _, accuracy = model.evaluate(_pictures(pictures / "test"))
    measured = {
        "epoch_seconds": clock.seconds,
        "training_pictures": len(train.file_paths),
        "parameters": model.count_params(),
        "validation_accuracy": history.history["val_accuracy"],
        "test_accuracy": accuracy,
        "test_pictures": sum(path.is_file() for path in (pictures / "test").rglob("*")),
    }
    print(json.dumps(measured))


def _pictures(folder: Path) -> Any:
    import keras

    return keras.utils.image_dataset_from_directory(
        folder, image_size=(IMAGE_SIZE, IMAGE_SIZE), batch_size=BATCH_SIZE
    )


def build(variant: str, weights: str | None) -> "keras.Model":
    """Builds one of the four models with a sigmoid at the end.

    Args:
        variant: plain, augmented, preprocessed or transfer.
        weights: what `keras.applications.MobileNetV2` takes.
    """
    import keras
    from keras import layers

    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    inputs = x = keras.Input(shape)
    if variant in ("preprocessed", "transfer"):
        x = layers.Rescaling(1 / 127.5, offset=-1)(x)
    if variant != "plain":
        x = layers.RandomFlip("horizontal")(x)
        x = layers.RandomRotation(0.2)(x)
    if variant == "transfer":
        backbone = keras.applications.MobileNetV2(shape, include_top=False, weights=weights)
        backbone.trainable = False
        x = backbone(x, training=False)
        x = layers.GlobalMaxPooling2D()(x)
        x = layers.Dropout(0.2)(x)
    else:
        for _ in range(3):
            x = layers.Conv2D(32, 3, activation="relu")(x)
            x = layers.MaxPooling2D()(x)
        x = layers.Flatten()(x)
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dropout(0.2)(x)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))


def _training_clock() -> Any:
    import keras

    class Clock(keras.callbacks.Callback):
        """Seconds of each epoch's training pass alone: from its begin to the begin of its
        validation.
        """

        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []
            self._start = 0.0

        def on_epoch_begin(self, *_: Any) -> None:
            self._start = time.perf_counter()

        def on_test_begin(self, *_: Any) -> None:
            self.seconds.append(time.perf_counter() - self._start)

    return Clock()


if __name__ == "__main__":
    main()

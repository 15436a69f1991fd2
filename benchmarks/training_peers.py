"""The training recipe that people copy from Keras' tutorials, as it is: the peer of
`benchmarks.bench_training`.

  python -m benchmarks.training_peers --pictures=folder --variant=transfer --weights=file \\
    --epochs=20 --saved_model=folder

Nothing of Whisker is in it, and the faults of the notebook are left in its four variants: a sigmoid
before a loss that expects logits, pictures that are read and decoded anew in every epoch.
`tutorial` is how Keras' guide to transfer learning has it: average pooling, dropout, one dense
layer; without its flips and turns. It prints one JSON line at the end.
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
    flags.DEFINE_string("variant", "preprocessed", "which of the four models, or tutorial")
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
    classes = len(train.class_names)
    model = build(values.variant, None if values.weights == "none" else values.weights, classes)
    if classes == 2:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        # Of the tutorial's logits; the notebook's are probabilities.
        correct = keras.metrics.BinaryAccuracy(
            name="accuracy", threshold=0.0 if values.variant == "tutorial" else 0.5
        )
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        correct = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss, metrics=[correct])
    clock = _training_clock()
    history = model.fit(train, validation_data=validation, epochs=values.epochs, callbacks=[clock])
    model.export(values.saved_model)
    # Judged when the SavedModel is on disk: the clock of the benchmark has stopped by then.
    test = _pictures(pictures / "test", shuffle=False)
    outputs = model.predict(test)
    threshold = 0.0 if values.variant == "tutorial" else 0.5
    answers = outputs[:, 0] > threshold if classes == 2 else outputs.argmax(axis=1)
    labels = [label for _, batch in test for label in batch.numpy()]
    right = [bool(answer == label) for answer, label in zip(answers, labels, strict=True)]
    measured = {
        "epoch_seconds": clock.seconds,
        "training_pictures": len(train.file_paths),
        "parameters": model.count_params(),
        "validation_accuracy": history.history["val_accuracy"],
        "test_accuracy": sum(right) / len(right),
        "test_pictures": len(right),
        "right": {
            Path(path).stem: found for path, found in zip(test.file_paths, right, strict=True)
        },
    }
    print(json.dumps(measured))


def _pictures(folder: Path, *, shuffle: bool = True) -> Any:
    import keras

    return keras.utils.image_dataset_from_directory(
        folder, image_size=(IMAGE_SIZE, IMAGE_SIZE), batch_size=BATCH_SIZE, shuffle=shuffle
    )


def build(variant: str, weights: str | None, classes: int = 2) -> "keras.Model":
    """Builds one of the four models with a sigmoid at the end, or the tutorial's with logits.

    Args:
        variant: plain, augmented, preprocessed, transfer or tutorial.
        weights: what `keras.applications.MobileNetV2` takes.
        classes: two, but for the tutorial.
    """
    import keras
    from keras import layers

    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    inputs = x = keras.Input(shape)
    if variant in ("preprocessed", "transfer", "tutorial"):
        x = layers.Rescaling(1 / 127.5, offset=-1)(x)
    if variant not in ("plain", "tutorial"):
        x = layers.RandomFlip("horizontal")(x)
        x = layers.RandomRotation(0.2)(x)
    if variant in ("transfer", "tutorial"):
        backbone = keras.applications.MobileNetV2(shape, include_top=False, weights=weights)
        backbone.trainable = False
        x = backbone(x, training=False)
        if variant == "tutorial":
            x = layers.GlobalAveragePooling2D()(x)
            x = layers.Dropout(0.2)(x)
            return keras.Model(inputs, layers.Dense(1 if classes == 2 else classes)(x))
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

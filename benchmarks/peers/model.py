"""The model function that every peer calls."""

from collections.abc import Callable, Sequence

import tensorflow as tf


def load(folder: str) -> Callable[[Sequence[bytes]], list[dict[str, str | float]]]:
    """Gives a function from pictures to an answer for each.

    Args:
        folder: of the SavedModel.
    """
    signature = tf.saved_model.load(folder).signatures["serving_default"]

    def classify(pictures: Sequence[bytes]) -> list[dict[str, str | float]]:
        answer = signature(image_bytes=tf.constant(list(pictures)))
        rows = zip(answer["label"].numpy(), answer["probability"].numpy(), strict=True)
        return [
            {"label": label.decode(), "probability": float(probability)}
            for label, probability in rows
        ]

    return classify

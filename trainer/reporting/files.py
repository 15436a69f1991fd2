"""The files that a report is made of: their names, and how one is written."""

from pathlib import Path

from trainer.errors import RunError

CLASS_ROWS = "class_rows.png"
LABEL_COUNTS = "label_counts.png"
AUGMENTATION = "augmentation.png"
TRAINING_CURVES = "training_curves.png"
PACE = "pace.png"
CONFUSION = "confusion.png"
THRESHOLDS = "thresholds.png"
RELIABILITY = "reliability.png"
COVERAGE = "coverage.png"
COMPARED_ACCURACIES = "compared_accuracies.png"
COMPARED_CURVES = "compared_curves.png"
# What of `result.json` each of them shows.
PREDICTION_GRIDS = {
    "prediction_grid.png": "at_random",
    "mistakes.png": "mistakes",
    "least_certain.png": "least_certain",
}


def write(path: Path, content: bytes) -> None:
    """Writes a file so that a reader finds the old one or the new one whole, never a part; makes
    its folder.

    Raises:
        RunError: the file cannot be written; nothing is left behind.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror}; free the place or give another run folder"
        ) from error

"""Where a version comes from: the rows of its ledger and `whisker.json`, which travel with it in
`assets.extra/`.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.store.manifest import LEDGER_FILE, MANIFEST_FILE
from trainer.data.ledger import Ledger

_METRICS = ("n", "accuracy", "interval_95", "loss")


def write_ledger(ledger: Ledger, folder: Path) -> None:
    """Writes which picture was in which split, without paths, so that a later candidate is compared
    fairly.

    Args:
        ledger: of the run.
        folder: the SavedModel.
    """
    rows = sorted((picture.sha256, picture.split, picture.label) for picture in ledger.pictures)
    lines = (
        json.dumps(dict(zip(("sha256", "split", "label"), row, strict=True)), ensure_ascii=False)
        for row in rows
    )
    _write(folder / LEDGER_FILE, "".join(f"{line}\n" for line in lines))


def read_ledger(content: bytes) -> dict[str, str] | None:
    """Reads what `write_ledger` has written: split by hash; None where it is empty or no such
    file.
    """
    try:
        rows = [json.loads(line) for line in content.splitlines()]
        return {row["sha256"]: row["split"] for row in rows} or None
    except (ValueError, KeyError, TypeError):
        return None


def describe(
    result: Mapping[str, Any], *, image_size: int, commit: str, checkpoint: Path
) -> dict[str, Any]:
    """Says where a model comes from: data, commit, settings and weights.

    Args:
        result: what of `result.json` is known by now.
        image_size: side in pixels.
        commit: of the checkout that trained.
        checkpoint: the file with the weights that were exported.
    """
    return {
        "classes": result["classes"],
        "image_size": image_size,
        "variant": result["variant"],
        "recipe": result["recipe"],
        "data": {name: result["data"][name] for name in ("name", "digest", "counts")},
        "commit": commit,
        "config": result["config"],
        "checkpoint": {
            "name": checkpoint.name,
            "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        },
        "metrics": {
            split: {name: result[split][name] for name in _METRICS}
            for split in ("validation", "test")
        },
    }


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes `whisker.json` into a SavedModel's folder; the store adds number and digests when it
    publishes.
    """
    _write(folder / MANIFEST_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")

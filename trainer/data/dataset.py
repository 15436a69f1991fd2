"""The pictures of a run: found, read once, and assigned to splits before anything is trained."""

import logging
from dataclasses import dataclass
from pathlib import Path

from trainer.config import Config
from trainer.data import input as data_input
from trainer.data import sources
from trainer.data.cache import free_memory_bytes, make_cache
from trainer.data.input import Examples
from trainer.data.ledger import Ledger
from trainer.data.pictures import Pictures, assign, open_pictures
from trainer.data.scan import scan
from trainer.session import Session

logger = logging.getLogger(__name__)

_LEFT_OUT_SHOWN = 10


@dataclass(frozen=True)
class Dataset:
    """The pictures of a run.

    Attributes:
        folder: where they lie on this machine.
        pictures: all that were found, and what reads them.
        ledger: those that are used, and their splits.
        examples: the same, ready to be batched.
    """

    folder: Path
    pictures: Pictures
    ledger: Ledger
    examples: Examples


def load(config: Config, session: Session) -> Dataset:
    """Finds, reads, hashes and decodes all pictures, and assigns them to splits.

    Args:
        config: of the run.
        session: of the run; its folder gets ``ledger.json``.

    Raises:
        DataError: the pictures cannot be used.
        RunError: the run resumes, and the pictures have changed since it began.
        WorkersError: another worker has other pictures.
    """
    root = sources.pictures_folder(config.data, session.downloads)
    pictures = open_pictures(root)
    workers = session.workers
    # Features are computed by everybody for all; of pixels in shards, each reads what it trains on.
    read = pictures if config.feature_views else data_input.own_pictures(pictures, workers.part)
    cache = make_cache(
        config.cache,
        len(read.found),
        config.image_size,
        session.downloads / "pixels",
        free_bytes=free_memory_bytes(),
    )
    scanned = scan(read, config.image_size, on_bad_image=config.on_bad_image, cache=cache)
    ledger = assign(
        pictures, scanned.sha256, scanned.left_out, protocol=config.split, say=logger.info
    )
    workers.require_same("the pictures or their split", ledger.digest)
    workers.require_same("what they compute in (--mixed_precision)", session.devices.precision)
    session.folder.freeze_ledger(ledger.digest, ledger.write)
    examples = Examples(
        read, ledger, scanned.pixels, config.image_size, class_weights=config.class_weights
    )
    _log(ledger)
    return Dataset(root, pictures, ledger, examples)


def _log(ledger: Ledger) -> None:
    sizes = ", ".join(
        f"{split} {sum(counts.values())}" for split, counts in ledger.counts().items()
    )
    logger.info("%d pictures of %d classes: %s", len(ledger.pictures), len(ledger.classes), sizes)
    if ledger.left_out:
        logger.info("%d files left out:", len(ledger.left_out))
        for file in ledger.left_out[:_LEFT_OUT_SHOWN]:
            logger.info("  %s: %s", file.path, file.reason)
        if len(ledger.left_out) > _LEFT_OUT_SHOWN:
            logger.info("  and %d more, all in ledger.json", len(ledger.left_out) - _LEFT_OUT_SHOWN)

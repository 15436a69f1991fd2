"""Where encoded pictures come from: a folder of class folders, or record shards made from one."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.data import frozen, ledger
from trainer.data.ledger import Found, Ledger, LeftOut
from trainer.data.shards import INDEX, Shards
from trainer.data.split import freeze
from trainer.errors import DataError


@dataclass(frozen=True)
class Pictures:
    """The pictures of a data folder.

    Attributes:
        folder: the data folder.
        found: all of them, sorted by path.
        read: gives the content of one, by its path.
        frozen: the split that was frozen, if any.
        stored: paths in the order in which shards hold them; None where each picture is a file.
    """

    folder: Path
    found: tuple[Found, ...]
    read: Callable[[str], bytes]
    frozen: Ledger | None = None
    stored: tuple[str, ...] | None = None


def open_pictures(folder: Path) -> Pictures:
    """Lists the pictures of a data folder without reading them.

    Raises:
        DataError: there is none, or what is there cannot be trained on.
    """
    before = frozen.read(folder)
    if (folder / INDEX).exists() and before is not None:
        shards = Shards(folder)
        found = [Found(picture.path, picture.label, picture.split) for picture in before.pictures]
        found.sort(key=lambda file: file.path)
        return Pictures(folder, tuple(found), shards.read, before, shards.order())
    return Pictures(
        folder, tuple(ledger.find(folder)), lambda path: (folder / path).read_bytes(), before
    )


def assign(
    pictures: Pictures,
    sha256: Mapping[str, str],
    left_out: Sequence[LeftOut],
    *,
    protocol: str,
    say: Callable[[str], None],
) -> Ledger:
    """Says which pictures train and which test: as was frozen, or anew where nothing was.

    Args:
        pictures: what is there.
        sha256: hash in hexadecimal by path, of pictures that decode.
        left_out: those that do not, with the reason.
        protocol: ``given`` or ``hold_out``.
        say: prints one line; told of pictures that were added since the split was frozen, which are
            not used.

    Returns:
        The ledger; a frozen one without pictures that are unchanged and yet do not decode.

    Raises:
        DataError: frozen pictures were altered or removed, another protocol is asked for than was
            frozen, or a class has no picture in one of the splits.
    """
    before = pictures.frozen
    if before is None:
        return freeze(pictures.found, sha256, left_out, protocol=protocol)
    file = frozen.ledger_file(pictures.folder)
    if protocol not in ("given", before.protocol):
        raise DataError(
            f"--split={protocol}: {file} was frozen with {before.protocol}; leave --split away, or"
            " remove the file and freeze the split anew"
        )
    undecodable = {each.path: each for each in left_out}
    unused = [
        undecodable[picture.path] for picture in before.pictures if picture.path in undecodable
    ]
    hashes = {**sha256, **{each.path: _hash(pictures, each.path) for each in unused}}
    changed = frozen.changes(before, pictures.found, hashes)
    if changed.removed or changed.altered:
        cure = (
            "convert anew"
            if pictures.stored
            else f"or run python -m trainer.data extend {pictures.folder}"
        )
        raise DataError(
            f"{file}: since the split was frozen, pictures have changed:"
            f" {replace(changed, added=())}; put them back, {cure}"
        )
    say(f"split frozen in {file} ({before.protocol})")
    if changed.added:
        say(
            f"{changed} since then: not used; python -m trainer.data extend {pictures.folder}"
            " assigns what was added"
        )
    return replace(
        before,
        pictures=tuple(picture for picture in before.pictures if picture.path not in undecodable),
        left_out=(*before.left_out, *unused),
    )


def _hash(pictures: Pictures, path: str) -> str:
    try:
        return hashlib.sha256(pictures.read(path)).hexdigest()
    except OSError:
        return ""

"""One look at every picture file, in parallel: what is in it, and whether it can be used."""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import ExifTags, Image
from tqdm import tqdm

from trainer.data.duplicates import difference_hashes
from trainer.data.kinds import KINDS, kind_by_content, kind_by_name, why_undecodable
from trainer.data.ledger import Found, LeftOut


@dataclass(frozen=True)
class Facts:
    """What is known of a picture that decodes.

    Attributes:
        path: relative to the data folder, with /.
        label: its class.
        split: that it is in, or None where nothing says.
        sha256: of the file, in hexadecimal.
        bytes: size of the file.
        width: in pixels, as it is stored.
        height: in pixels.
        kind: what its first bytes say; one of `KINDS`.
        mode: of its pixels, in Pillow's words: RGB, L, …
        orientation: its orientation tag: 1 where it is upright or has none.
        hash: 64-bit difference hash, in hexadecimal.
        mirrored_hash: that of its mirror image.
    """

    path: str
    label: str
    split: str | None
    sha256: str
    bytes: int
    width: int
    height: int
    kind: str
    mode: str
    orientation: int
    hash: str
    mirrored_hash: str

    @property
    def mislabelled(self) -> bool:
        """Whether the name says another kind than the bytes do."""
        return kind_by_name(self.path) != self.kind


def look(found: Sequence[Found], read: Callable[[str], bytes]) -> tuple[list[Facts], list[LeftOut]]:
    """Reads and decodes every file once.

    Args:
        found: the files.
        read: gives the content of one, by its path.

    Returns:
        The facts of the pictures that decode, in the order given; and the files that do not, with
        the reason.
    """

    def examine(file: Found) -> Facts | LeftOut:
        try:
            encoded = read(file.path)
        except OSError as error:
            return LeftOut(file.path, f"cannot be read: {error.strerror or error}")
        try:
            return _facts(file, encoded)
        except (
            Exception
        ):  # Pillow's decoders raise what they like: OSError, SyntaxError, struct.error, …
            return LeftOut(file.path, why_undecodable(encoded, "Pillow"))

    # Decoding happens outside the interpreter lock, so that threads are enough. What Pillow warns
    # of (many pixels, odd tags) is told in the findings.
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(os.cpu_count()) as pool:
        looking = pool.map(examine, found)
        # disable=None: a bar on a terminal, nothing in a log.
        results = list(
            tqdm(
                looking,
                "looking at pictures",
                len(found),
                leave=False,
                disable=None,
                unit=" pictures",
            )
        )
    return [each for each in results if isinstance(each, Facts)], [
        each for each in results if isinstance(each, LeftOut)
    ]


def _facts(file: Found, encoded: bytes) -> Facts:
    kind = kind_by_content(encoded)
    with Image.open(io.BytesIO(encoded), formats=KINDS) as picture:
        own, mirrored = difference_hashes(picture)
        return Facts(
            path=file.path,
            label=file.label,
            split=file.given_split,
            sha256=hashlib.sha256(encoded).hexdigest(),
            bytes=len(encoded),
            width=picture.width,
            height=picture.height,
            kind=kind or str(picture.format),
            mode=picture.mode,
            orientation=picture.getexif().get(ExifTags.Base.Orientation, 1),
            hash=f"{own:016x}",
            mirrored_hash=f"{mirrored:016x}",
        )

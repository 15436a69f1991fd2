"""What `trainer.data scan` finds in a folder of pictures; near-duplicates."""

import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from tqdm import tqdm

from trainer.data.ledger import (
    FORMATS,
    Found,
    LeftOut,
    format_by_content,
    format_by_name,
    why_undecodable,
)

# Pictures that look the same, mirrored or not: 64-bit difference hashes at most 2 bits apart.
#
# The hash is N. Krawetz's dHash ("Kind of Like That", 2013): each bit says whether a cell of a 9×8
# grid is darker than its right neighbour, which JPEG, resizing and brightness hardly change. Beyond
# a distance of 2, pairs looked at by eye in the cats-and-dogs pictures were no duplicates.

MOST_BITS_APART = 2

_COLUMNS, _ROWS = 9, 8
# Of two hashes that differ in at most 2 bits, one of these three parts is the same: only pictures
# that share one are compared.
_BANDS = ((0, 22), (22, 21), (43, 21))


def difference_hashes(picture: Image.Image) -> tuple[int, int]:
    """Computes the hash of a decoded picture, and that of its mirror image: 64 bits each."""
    cells = picture.convert("L").resize((_COLUMNS, _ROWS), Image.Resampling.BOX)
    grid = np.asarray(cells)
    return _bits(grid), _bits(grid[:, ::-1])


def _bits(grid: np.ndarray) -> int:
    return int.from_bytes(np.packbits(grid[:, :-1] < grid[:, 1:]).tobytes(), "big")


def near_pairs(hashes: Mapping[str, tuple[int, int]]) -> Iterator[tuple[str, str]]:
    """Finds pictures that look the same.

    Args:
        hashes: `difference_hashes` by path.

    Yields:
        Pairs of paths that hang all pictures of a group together; a pair need not be given for each
        two of them. Memory is in proportion to the number of pictures.
    """
    # One picture stands for all that have the very same hash, or the mirrored one.
    first: dict[int, str] = {}
    mirrored: dict[int, int] = {}
    for path in sorted(hashes):
        own, mirror = hashes[path]
        same = first.get(own) or first.get(mirror)
        if same is not None:
            yield same, path
        else:
            first[own] = path
            mirrored[own] = mirror
    for start, width in _BANDS:
        band = ((1 << width) - 1) << start
        alike: dict[int, list[int]] = {}
        for own in first:
            alike.setdefault(own & band, []).append(own)
        for own, mirror in mirrored.items():
            for asked in {own, mirror}:
                for other in alike.get(asked & band, ()):
                    if other != own and (asked ^ other).bit_count() <= MOST_BITS_APART:
                        yield first[own], first[other]


def groups(pairs: Iterator[tuple[str, str]]) -> list[list[str]]:
    """Joins pairs that share a picture: sorted lists of two or more paths, sorted."""
    parent: dict[str, str] = {}

    def root(path: str) -> str:
        while (above := parent.setdefault(path, path)) != path:
            parent[path] = path = parent[above]
        return path

    for one, other in pairs:
        parent[root(one)] = root(other)
    joined: dict[str, list[str]] = {}
    for path in sorted(parent):
        joined.setdefault(root(path), []).append(path)
    return sorted(joined.values())


# One look at every picture file, in parallel: what is in it, and whether it can be used.


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
        kind: what its first bytes say; one of `FORMATS`.
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
        return format_by_name(self.path) != self.kind


def look(found: Sequence[Found], read: Callable[[str], bytes]) -> tuple[list[Facts], list[LeftOut]]:
    """Reads and decodes every file once, with the decoder of training.

    Args:
        found: the files.
        read: gives the content of one, by its path.

    Returns:
        The facts of the pictures that decode, in the order given; and the files that do not, with
        the reason.
    """
    # Here, so that commands refuse wrong use before TensorFlow is loaded.
    import tensorflow as tf

    from trainer.variants.preprocessing import decode

    traced = tf.function(decode, input_signature=[tf.TensorSpec([], tf.string)])

    def examine(file: Found) -> Facts | LeftOut:
        try:
            encoded = read(file.path)
        except OSError as error:
            return LeftOut(file.path, f"cannot be read: {error.strerror or error}")
        try:
            with tf.device("CPU:0"):
                pixels = traced(tf.constant(encoded)).numpy()
        except tf.errors.OpError:
            return LeftOut(file.path, why_undecodable(encoded))
        return _facts(file, encoded, pixels)

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
    facts = [result for result in results if isinstance(result, Facts)]
    return facts, [result for result in results if isinstance(result, LeftOut)]


def _facts(file: Found, encoded: bytes, pixels: np.ndarray) -> Facts:
    decoded = Image.fromarray(pixels)
    own_hash, mirrored_hash = difference_hashes(decoded)
    mode, orientation = decoded.mode, 1
    # What only the file's head tells. Pillow raises what it likes: OSError, SyntaxError, …
    with suppress(Exception), Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
        mode = picture.mode
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return Facts(
        path=file.path,
        label=file.label,
        split=file.given_split,
        sha256=hashlib.sha256(encoded).hexdigest(),
        bytes=len(encoded),
        width=decoded.width,
        height=decoded.height,
        kind=format_by_content(encoded) or "unknown",
        mode=mode,
        orientation=orientation,
        hash=f"{own_hash:016x}",
        mirrored_hash=f"{mirrored_hash:016x}",
    )


# What a look at all pictures adds up to: what to fix before anything is trained on them.

# Below the trainer's smallest --image_size every picture is blown up.
_TINY_SIDE = 32
# A decoded picture of more takes over 120 MB.
_HUGE_PIXELS = 40_000_000
# The trainer stretches pictures to squares: the side of a long one is squeezed by as much.
_LONGEST = 4.0
_SHOWN = 10

# Groups of findings in the order of the table: name in the JSON, and what it is for a person.
_FILES = {
    "unreadable": "unreadable",
    "mislabelled": "of another kind than their name says",
    "turned": "with an orientation tag, which training ignores",
    "tiny": f"below {_TINY_SIDE} pixels on a side",
    "huge": f"above {_HUGE_PIXELS // 10**6} megapixels",
    "stretched": f"more than {_LONGEST:g} times as long on one side",
}


def near_duplicates(facts: Sequence[Facts]) -> list[list[str]]:
    """Groups of paths of pictures that look the same, exact copies among them."""
    hashes = {fact.path: (int(fact.hash, 16), int(fact.mirrored_hash, 16)) for fact in facts}
    return groups(near_pairs(hashes))


def sum_up(facts: Sequence[Facts], unreadable: Sequence[LeftOut]) -> dict[str, Any]:
    """Finds what a person should know.

    Returns:
        JSON values: `pictures`, `counts` {split: {class: n}} (split ``all`` where none is given),
            `baseline_accuracy`
        {split: share of its largest class}, `imbalance` (largest to smallest class), `kinds`,
        `modes`, `width` and `height` [least, median, most] in pixels, `unreadable`, `mislabelled`,
        `turned`, `tiny`, `huge` and `stretched` [{path, reason}], `duplicates` [{paths, exact,
        splits, classes}], and `files`: the facts themselves.
    """
    by_path = {fact.path: fact for fact in facts}
    counts: dict[str, dict[str, int]] = {}
    for (split, label), count in sorted(
        Counter((each.split or "all", each.label) for each in facts).items()
    ):
        counts.setdefault(split, {})[label] = count
    classes = Counter(each.label for each in facts)
    return {
        "format": 1,
        "pictures": len(facts),
        "counts": counts,
        "baseline_accuracy": {
            split: max(each.values()) / sum(each.values()) for split, each in counts.items()
        },
        "imbalance": max(classes.values()) / min(classes.values()) if classes else None,
        "kinds": dict(Counter(each.kind for each in facts).most_common()),
        "modes": dict(Counter(each.mode for each in facts).most_common()),
        "width": _spread([each.width for each in facts]),
        "height": _spread([each.height for each in facts]),
        "unreadable": [vars(file) for file in unreadable],
        "mislabelled": _those(facts, lambda each: each.kind if each.mislabelled else None),
        "turned": _those(
            facts, lambda each: f"tag {each.orientation}" if each.orientation != 1 else None
        ),
        "tiny": _those(
            facts, lambda each: _size(each) if min(each.width, each.height) < _TINY_SIDE else None
        ),
        "huge": _those(
            facts, lambda each: _size(each) if each.width * each.height > _HUGE_PIXELS else None
        ),
        "stretched": _those(
            facts,
            lambda each: (
                _size(each)
                if max(each.width, each.height) > _LONGEST * min(each.width, each.height)
                else None
            ),
        ),
        "duplicates": [
            _duplicates([by_path[path] for path in group]) for group in near_duplicates(facts)
        ],
        "files": [vars(each) for each in facts],
    }


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines for a person about what `sum_up` has found."""
    yield from _count_lines(found)
    yield (
        f"{', '.join(f'{count:,} {kind}' for kind, count in found['kinds'].items())}; "
        f"{', '.join(f'{count:,} {mode}' for mode, count in found['modes'].items())}"
    )
    for side in ("width", "height"):
        least, middle, most = found[side]
        yield f"{side} {least:,} to {most:,} pixels, median {middle:,}"
    for name, meaning in _FILES.items():
        yield f"{len(found[name]):,} {meaning}"
        for file in found[name][:_SHOWN]:
            yield f"  {file['path']}: {file['reason']}"
        yield from _and_more(len(found[name]))
    groups = found["duplicates"]
    across = {each: sum(len(group[each]) > 1 for group in groups) for each in ("splits", "classes")}
    yield (
        f"{len(groups):,} groups of pictures that look the same:"
        f" {sum(group['exact'] for group in groups):,} with the very same file;"
        f" {across['splits']:,} across splits, {across['classes']:,} across classes"
    )
    for group in sorted(groups, key=lambda group: (-len(group["splits"]), -len(group["classes"])))[
        :_SHOWN
    ]:
        yield f"  {' = '.join(group['paths'])}"
    yield from _and_more(len(groups))


def _count_lines(found: Mapping[str, Any]) -> Iterator[str]:
    counts = found["counts"]
    labels = sorted({label for by_class in counts.values() for label in by_class})
    width = max([5, *map(len, labels)])
    yield f"{'class':{width}}" + "".join(f"{split:>12}" for split in counts)
    # The largest classes first: of hundreds, only some are shown.
    total = Counter(
        {label: sum(by_class.get(label, 0) for by_class in counts.values()) for label in labels}
    )
    largest_first = [label for label, _ in total.most_common()]
    shown = (
        labels
        if len(labels) <= 2 * _SHOWN
        else [*largest_first[:_SHOWN], "…", *largest_first[-_SHOWN:]]
    )
    for label in shown:
        yield f"{label:{width}}" + "".join(
            f"{by_class.get(label, 0):>12,}" if label in total else ""
            for by_class in counts.values()
        )
    yield (
        f"imbalance {found['imbalance']:.2f} to 1; always naming the largest class gets "
        + ", ".join(
            f"{share:.3f} of {split}" for split, share in found["baseline_accuracy"].items()
        )
    )


def _and_more(count: int) -> Iterator[str]:
    if count > _SHOWN:
        yield f"  and {count - _SHOWN:,} more, all in the file that --out names"


def _those(facts: Sequence[Facts], reason: Callable[[Facts], str | None]) -> list[dict[str, str]]:
    return [
        {"path": fact.path, "reason": told} for fact in facts if (told := reason(fact)) is not None
    ]


def _duplicates(group: Sequence[Facts]) -> dict[str, Any]:
    return {
        "paths": [each.path for each in group],
        "exact": len({each.sha256 for each in group}) < len(group),
        "splits": sorted({each.split or "all" for each in group}),
        "classes": sorted({each.label for each in group}),
    }


def _size(each: Facts) -> str:
    return f"{each.width}×{each.height}"


def _spread(values: Sequence[int]) -> list[int]:
    return [min(values), int(median(values)), max(values)] if values else [0, 0, 0]

"""What `whisker-data scan` finds in a folder of pictures; near-duplicates."""

import hashlib
import io
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

from trainer.data.ledger import Found, LeftOut, Unused, not_used
from whisker_ml.formats import FORMATS, format_by_content, format_by_name
from whisker_ml.processors import available_processors
from whisker_ml.terminal import progress

# Near-duplicates: pictures whose thumbnails are the same, mirrored or not.
#
# A thumbnail has 16 by 16 pixels in colour. Measured on three sets (cats and dogs, clothing, hands
# on plain ground): copies that were encoded again or made half as large are at most 6 grey levels
# away from their picture (root of the mean square), and pictures that a person calls different at
# least 8.

_SIDE = 16
_MOST_APART = 6.0
# Of the picture's own contrast: without it, two pictures of fog would be the same.
_MOST_APART_OF_CONTRAST = 0.2
# Below this contrast (standard deviation in grey levels) a thumbnail says nothing.
_LEAST_CONTRAST = 2.0
_COMPARED_AT_ONCE = 256
# What rounding may add to a distance that is computed from products.
_ROUNDING = 1.02


def thumbnail(picture: Image.Image) -> np.ndarray:
    """Makes the thumbnail of a decoded picture: uint8 [16, 16, 3]."""
    small = picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small)


def near_duplicates(facts: Sequence["Facts"]) -> list[list[str]]:
    """Groups pictures that look the same, exact copies among them.

    All of a group look like its first picture: none belongs to it through a third one.

    Returns:
        Sorted lists of two or more paths, sorted.
    """
    facts = sorted(facts, key=lambda fact: fact.path)
    groups: dict[object, list[str]] = {}
    seen: list[np.ndarray] = []
    names: list[list[str]] = []
    # First what is the very same: one stands for all.
    for fact in facts:
        pixels = fact.thumbnail
        informative = pixels.std() >= _LEAST_CONTRAST
        same = min(pixels.tobytes(), pixels[:, ::-1].tobytes())
        key = same if informative else fact.sha256
        if key in groups:
            groups[key].append(fact.path)
            continue
        groups[key] = [fact.path]
        if informative:
            seen.append(pixels)
            names.append(groups[key])
    if seen:
        for first, others in _similar(np.stack(seen)):
            for other in others:
                names[first] += names[other]
                names[other].clear()
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def _similar(thumbnails: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers of thumbnails, and of those that look like each and were not given before.

    What a few numbers of each thumbnail tell apart is not compared any further, so that this takes
    little more than time in proportion to their number.
    """
    numbers = _mirror_invariant(thumbnails)
    # Neighbours along the direction in which the pictures differ most.
    _, directions = np.linalg.eigh(numbers.T @ numbers)
    along = numbers @ directions[:, -1]
    order = np.argsort(along, kind="stable")
    numbers, along = numbers[order], along[order]
    reach = _MOST_APART * numbers.shape[1] ** 0.5
    ends = np.searchsorted(along, along + reach, side="right")
    squares = (numbers**2).sum(axis=1)
    contrast = thumbnails.reshape(len(thumbnails), -1).std(axis=1)[order]
    taken = np.zeros(len(order), bool)
    for block in range(0, len(order), _COMPARED_AT_ONCE):
        rows = block + np.flatnonzero(~taken[block : block + _COMPARED_AT_ONCE])
        if not len(rows):
            continue
        window = slice(rows[0], ends[rows[-1]])
        apart = squares[window] - 2 * numbers[rows] @ numbers[window].T
        apart += squares[rows, np.newaxis]
        close = apart <= reach**2 * _ROUNDING
        for row, candidates in zip(rows, close, strict=True):
            if taken[row]:
                continue
            near = window.start + np.flatnonzero(candidates)
            near = near[(near > row) & ~taken[near]]
            near = near[_same(thumbnails, order[row], order[near], contrast[row], contrast[near])]
            if len(near):
                taken[near] = True
                yield int(order[row]), order[near]


def _mirror_invariant(thumbnails: np.ndarray) -> np.ndarray:
    """What mirroring keeps of thumbnails: float32 [n, 48], around 0. They differ by no more than
    the thumbnails do (root of the mean square).
    """
    half = _SIDE // 2
    numbers = np.empty((len(thumbnails), 48), np.float32)
    for start in range(0, len(thumbnails), 4096):
        part = thumbnails[start : start + 4096].astype(np.float32)
        symmetric = (part[:, :, :half] + part[:, :, : half - 1 : -1]) / 2
        blocks = symmetric.reshape(-1, 4, 4, 4, 2, 3).mean(axis=(2, 4))
        numbers[start : start + 4096] = blocks.reshape(-1, 48)
    return numbers - numbers.mean(axis=0)


def _same(
    thumbnails: np.ndarray, number: int, numbers: np.ndarray, contrast: float, contrasts: np.ndarray
) -> np.ndarray:
    """Which of a few thumbnails are the same as one of them, mirrored or not: bool [n]."""
    first, rest = thumbnails[number], thumbnails[numbers].astype(np.float32)
    squares = [((rest - turned) ** 2).mean(axis=(1, 2, 3)) for turned in (first, first[:, ::-1])]
    most = np.minimum(np.minimum(contrasts, contrast) * _MOST_APART_OF_CONTRAST, _MOST_APART)
    return np.sqrt(np.minimum(*squares)) <= most


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
        thumbnail: as `thumbnail` makes it.
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
    thumbnail: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """What `scan.json` says of the picture."""
        return {name: value for name, value in vars(self).items() if name != "thumbnail"}

    @property
    def mislabelled(self) -> bool:
        """Whether the name says another kind than the bytes do."""
        return format_by_name(self.path) != self.kind


def look(
    found: Sequence[Found], read: Callable[[str], bytes], max_pixels: int
) -> tuple[list[Facts], list[LeftOut]]:
    """Reads and decodes every file once, with the decoder of training.

    Args:
        found: the files.
        read: gives the content of one, by its path.
        max_pixels: width times height of a picture at most.

    Returns:
        The facts of the pictures that decode, in the order given; and the files that do not, with
        the reason.
    """
    # Here, so that commands refuse wrong use before TensorFlow is loaded.
    import tensorflow as tf

    from trainer.variants.preprocessing import decode, why_undecodable

    traced = tf.function(
        lambda encoded: decode(encoded, max_pixels),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )

    def examine(file: Found) -> Facts | LeftOut:
        try:
            encoded = read(file.path)
        except OSError as error:
            return LeftOut(file.path, f"cannot be read: {error.strerror or error}")
        try:
            with tf.device("CPU:0"):
                pixels = traced(tf.constant(encoded)).numpy()
        except tf.errors.OpError:
            return LeftOut(file.path, why_undecodable(encoded, max_pixels))
        return _facts(file, encoded, pixels)

    # Decoding happens outside the interpreter lock, so that threads are enough. What Pillow warns
    # of (many pixels, odd tags) is told in the findings.
    with (
        warnings.catch_warnings(action="ignore"),
        ThreadPoolExecutor(available_processors()) as pool,
    ):
        looking = pool.map(examine, found)
        results = list(
            progress(looking, desc="looking at pictures", total=len(found), unit=" pictures")
        )
    facts = [result for result in results if isinstance(result, Facts)]
    return facts, [result for result in results if isinstance(result, LeftOut)]


def _facts(file: Found, encoded: bytes, pixels: np.ndarray) -> Facts:
    decoded = Image.fromarray(pixels)
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
        thumbnail=thumbnail(decoded),
    )


# What a look at all pictures adds up to: what to fix before anything is trained on them.

# Below the trainer's smallest --image_size every picture is blown up.
_TINY_SIDE = 32
# A decoded picture of more takes over 120 MB; up to --max_pixels it is used.
_HUGE_PIXELS = 40_000_000
# The trainer stretches pictures to squares: the side of a long one is squeezed by as much.
_LONGEST = 4.0
_SHOWN = 10
_PATHS_SHOWN = 3

# Groups of findings in the order of the table: name in the JSON, and what it is for a person.
_FILES = {
    "unreadable": "unreadable",
    "mislabelled": "of another format than their name says",
    "turned": "turned by an orientation tag; training and serving turn them upright",
    "tiny": f"below {_TINY_SIDE} pixels on a side",
    "huge": f"above {_HUGE_PIXELS // 10**6} megapixels",
    "stretched": f"with one side more than {_LONGEST:g} times as long as the other",
}


def sum_up(
    facts: Sequence[Facts],
    unreadable: Sequence[LeftOut],
    unused: Sequence[Unused],
    baseline_accuracy: float | None = None,
) -> dict[str, Any]:
    """Finds what a person should know.

    Args:
        facts: of the pictures that decode.
        unreadable: files that do not, with the reason.
        unused: what else is in the folder.
        baseline_accuracy: what a run of the folder has in `result.json`; None where the folder
            cannot be split.

    Returns:
        JSON values: `pictures`, `counts` {split: {class: n}} (split ``all`` where none is given),
        `baseline_accuracy`, `imbalance` (largest to smallest class), `kinds`, `modes`, `width` and
        `height` [least, median, most] in pixels, `unreadable`, `mislabelled`, `turned`, `tiny`,
        `huge` and `stretched` [{path, reason}], `duplicates` [{paths, exact, splits, classes}],
        `unused` [{what, count, fix}], and `files`: the facts themselves.
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
        "baseline_accuracy": baseline_accuracy,
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
        "unused": [vars(each) for each in unused],
        "files": [fact.to_json() for fact in facts],
    }


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines for a person about what `sum_up` has found."""
    if found["files"]:
        yield from _picture_lines(found)
    for name, meaning in _FILES.items():
        yield f"{len(found[name]):,} {meaning}"
        for file in found[name][:_SHOWN]:
            yield f"  {file['path']}: {file['reason']}"
        yield from _and_more(len(found[name]))
    groups = found["duplicates"]
    across = {name: sum(len(group[name]) > 1 for group in groups) for name in ("classes", "splits")}
    yield (
        f"{len(groups):,} groups of pictures that look the same:"
        f" {sum(group['exact'] for group in groups):,} with identical files;"
        f" {across['splits']:,} across splits, {across['classes']:,} across classes"
    )
    # The worst first: one picture cannot be of two classes.
    ordered = sorted(groups, key=lambda group: (-len(group["classes"]), -len(group["splits"])))
    for group in ordered[:_SHOWN]:
        paths, more = group["paths"][:_PATHS_SHOWN], len(group["paths"]) - _PATHS_SHOWN
        what = "two labels for one picture: " if len(group["classes"]) > 1 else ""
        yield f"  {what}{' = '.join(paths)}" + (f" and {more:,} more" if more > 0 else "")
    yield from _and_more(len(groups))
    if found["unused"]:
        yield not_used([Unused(**each) for each in found["unused"]])


def _picture_lines(found: Mapping[str, Any]) -> Iterator[str]:
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
    baseline = found["baseline_accuracy"]
    yield f"imbalance {found['imbalance']:.2f} to 1" + (
        f"; always answering the commonest class gets {baseline:.3f} of the test split"
        if baseline is not None
        else ""
    )
    yield (
        f"{', '.join(f'{count:,} {kind}' for kind, count in found['kinds'].items())}; "
        f"{', '.join(f'{count:,} {mode}' for mode, count in found['modes'].items())}"
    )
    for side in ("width", "height"):
        least, middle, most = found[side]
        yield f"{side} {least:,} to {most:,} pixels, median {middle:,}"


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

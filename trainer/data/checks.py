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

from trainer.data.ledger import Found, LeftOut, Unused, not_used, some
from whisker_ml.formats import FORMATS, format_by_content, format_by_name
from whisker_ml.machine import available_processors
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
# Directions, of those in which thumbnails differ most, that most pairs are told apart by.
_DIRECTIONS = 16


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
    informative: list[Facts] = []
    by_content: dict[str, list[str]] = {}
    for fact in sorted(facts, key=lambda fact: fact.path):
        if fact.thumbnail.std() >= _LEAST_CONTRAST:
            informative.append(fact)
        else:
            by_content.setdefault(fact.sha256, []).append(fact.path)
    groups = [*by_content.values(), *_similar(informative)]
    return sorted(sorted(group) for group in groups if len(group) > 1)


def _similar(facts: Sequence["Facts"]) -> Iterator[list[str]]:
    """Paths of each picture and of those that look like it and were not given before.

    What a few numbers of each thumbnail tell apart is not compared any further, so that this takes
    little more than time in proportion to their number.
    """
    if not facts:
        return
    numbers = np.stack([_mirror_invariant(fact.thumbnail) for fact in facts])
    reach = _MOST_APART * numbers.shape[1] ** 0.5
    numbers -= numbers.mean(axis=0)
    _, directions = np.linalg.eigh(numbers.T @ numbers)
    numbers = numbers @ directions[:, -_DIRECTIONS:]
    # So that those that look the same are neighbours.
    order = np.argsort(numbers[:, -1], kind="stable")
    numbers, facts = numbers[order], [facts[index] for index in order]
    thumbnails = np.stack([fact.thumbnail for fact in facts])
    ends = np.searchsorted(numbers[:, -1], numbers[:, -1] + reach, side="right")
    taken = np.zeros(len(facts), bool)
    for row, end in enumerate(ends):
        if not taken[row]:
            apart = ((numbers[row:end] - numbers[row]) ** 2).sum(axis=1)
            near = row + np.flatnonzero((apart <= reach**2) & ~taken[row:end])
            near = near[_same(thumbnails[row], thumbnails[near])]
            taken[near] = True
            yield [facts[index].path for index in near]


def _mirror_invariant(thumbnail: np.ndarray) -> np.ndarray:
    """What mirroring keeps of a thumbnail: float32 [48]. Two differ by no more than the thumbnails
    do (root of the mean square).
    """
    symmetric = (thumbnail.astype(np.float32) + thumbnail[:, ::-1])[:, : _SIDE // 2] / 2
    return symmetric.reshape(4, 4, 4, 2, 3).mean(axis=(1, 3)).ravel()


def _same(thumbnail: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of a few thumbnails are the same as one, mirrored or not: bool [n]."""
    rest = others.astype(np.float32)
    squares = [
        ((rest - each) ** 2).mean(axis=(1, 2, 3)) for each in (thumbnail, thumbnail[:, ::-1])
    ]
    contrast = np.minimum(rest.std(axis=(1, 2, 3)), thumbnail.std())
    most = np.minimum(contrast * _MOST_APART_OF_CONTRAST, _MOST_APART)
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

    @property
    def size(self) -> str:
        """Width and height, for a person."""
        return f"{self.width}×{self.height}"

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
            return unreadable(file.path, error)
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


def unreadable(path: str, error: OSError) -> LeftOut:
    """Says why a file that cannot be read is not used."""
    return LeftOut(path, f"cannot be read: {error.strerror or error}")


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

# Findings in the order of the table, by their name in the JSON: what they are for a person, and the
# reason for which a picture is one, or nothing.
_FINDINGS: dict[str, tuple[str, Callable[[Facts], str]]] = {
    "unreadable": ("unreadable", lambda _: ""),
    "mislabelled": (
        "of another format than their name says",
        lambda each: each.kind if each.mislabelled else "",
    ),
    "turned": (
        "turned by an orientation tag; training and serving turn them upright",
        lambda each: f"tag {each.orientation}" if each.orientation != 1 else "",
    ),
    "tiny": (
        f"below {_TINY_SIDE} pixels on a side",
        lambda each: each.size if min(each.width, each.height) < _TINY_SIDE else "",
    ),
    "huge": (
        f"above {_HUGE_PIXELS // 10**6} megapixels",
        lambda each: each.size if each.width * each.height > _HUGE_PIXELS else "",
    ),
    "stretched": (
        f"with one side more than {_LONGEST:g} times as long as the other",
        lambda each: (
            each.size
            if max(each.width, each.height) > _LONGEST * min(each.width, each.height)
            else ""
        ),
    ),
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
    counts: dict[str, dict[str, int]] = {}
    counted = Counter((fact.split or "all", fact.label) for fact in facts)
    for (split, label), count in sorted(counted.items()):
        counts.setdefault(split, {})[label] = count
    classes = Counter(fact.label for fact in facts).values()
    by_path = {fact.path: fact for fact in facts}
    groups = [[by_path[path] for path in group] for group in near_duplicates(facts)]
    findings = {
        name: [{"path": fact.path, "reason": reason(fact)} for fact in facts if reason(fact)]
        for name, (_, reason) in _FINDINGS.items()
    }
    return {
        "format": 1,
        "pictures": len(facts),
        "counts": counts,
        "baseline_accuracy": baseline_accuracy,
        "imbalance": max(classes) / min(classes) if classes else None,
        "kinds": dict(Counter(fact.kind for fact in facts).most_common()),
        "modes": dict(Counter(fact.mode for fact in facts).most_common()),
        "width": _spread([fact.width for fact in facts]),
        "height": _spread([fact.height for fact in facts]),
        **findings,
        "unreadable": [vars(file) for file in unreadable],
        "duplicates": [
            {
                "paths": [fact.path for fact in group],
                "exact": len({fact.sha256 for fact in group}) < len(group),
                "splits": sorted({fact.split or "all" for fact in group}),
                "classes": sorted({fact.label for fact in group}),
            }
            for group in groups
        ],
        "unused": [vars(each) for each in unused],
        "files": [
            {name: value for name, value in vars(fact).items() if name != "thumbnail"}
            for fact in facts
        ],
    }


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines for a person about what `sum_up` has found."""
    if found["files"]:
        yield from _picture_lines(found)
    for name, (meaning, _) in _FINDINGS.items():
        yield f"{len(found[name]):,} {meaning}"
        yield from _first([f"{file['path']}: {file['reason']}" for file in found[name]])
    groups = found["duplicates"]
    across = {name: sum(len(group[name]) > 1 for group in groups) for name in ("classes", "splits")}
    yield (
        f"{len(groups):,} groups of pictures that look the same:"
        f" {sum(group['exact'] for group in groups):,} with identical files;"
        f" {across['splits']:,} across splits, {across['classes']:,} across classes"
    )
    # The worst first: one picture cannot be of two classes.
    groups = sorted(groups, key=lambda group: (-len(group["classes"]), -len(group["splits"])))
    yield from _first(
        [
            ("two labels for one picture: " if len(group["classes"]) > 1 else "")
            + some(group["paths"], " = ")
            for group in groups
        ]
    )
    if found["unused"]:
        yield not_used([Unused(**each) for each in found["unused"]])


def _picture_lines(found: Mapping[str, Any]) -> Iterator[str]:
    counts = found["counts"]
    total: Counter[str] = sum(map(Counter, counts.values()), Counter())
    labels = sorted(total)
    width = max([5, *map(len, labels)])
    if len(labels) > 2 * _SHOWN:
        labels.sort(key=lambda label: -total[label])
        labels[_SHOWN:-_SHOWN] = ["…"]
    yield f"{'class':{width}}" + "".join(f"{split:>12}" for split in counts)
    for label in labels:
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
    yield "; ".join(
        ", ".join(f"{count:,} {name}" for name, count in found[kind].items())
        for kind in ("kinds", "modes")
    )
    for side in ("width", "height"):
        least, middle, most = found[side]
        yield f"{side} {least:,} to {most:,} pixels, median {middle:,}"


def _first(lines: Sequence[str]) -> Iterator[str]:
    yield from (f"  {line}" for line in lines[:_SHOWN])
    if len(lines) > _SHOWN:
        yield f"  and {len(lines) - _SHOWN:,} more, all in the file that --out names"


def _spread(values: Sequence[int]) -> list[int]:
    return [min(values), int(median(values)), max(values)] if values else [0, 0, 0]

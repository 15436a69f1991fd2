"""What a look at all pictures adds up to: what to mend before anything is trained on them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from trainer.data import duplicates
from trainer.data.checkup import Facts
from trainer.data.ledger import LeftOut

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


def alike(facts: Sequence[Facts]) -> list[list[str]]:
    """Groups of paths of pictures that look the same, exact copies among them."""
    hashes = {each.path: (int(each.hash, 16), int(each.mirrored_hash, 16)) for each in facts}
    return duplicates.groups(duplicates.near_pairs(hashes))


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
    by_path = {each.path: each for each in facts}
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
        "duplicates": [_duplicates([by_path[path] for path in group]) for group in alike(facts)],
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
        {"path": each.path, "reason": told} for each in facts if (told := reason(each)) is not None
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

"""Pictures that look the same, mirrored or not: 64-bit difference hashes at most 2 bits apart.

The hash is N. Krawetz's dHash ("Kind of Like That", 2013): each bit says whether a cell of a 9×8
grid is darker than its right neighbour, which JPEG, resizing and brightness hardly change. Beyond a
distance of 2, pairs looked at by eye in the cats-and-dogs pictures were no duplicates.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image

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

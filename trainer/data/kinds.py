"""The kinds of picture files that are used: how their names end, and how their bytes begin."""

# First bytes, and where they stand; of WebP, the name of its container (RIFF) comes first.
_SIGNATURES = {
    "JPEG": (0, b"\xff\xd8\xff"),
    "PNG": (0, b"\x89PNG"),
    "GIF": (0, b"GIF8"),
    "BMP": (0, b"BM"),
    "WEBP": (8, b"WEBP"),
}
_BY_SUFFIX = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".webp": "WEBP",
}

KINDS = tuple(_SIGNATURES)
PICTURE_SUFFIXES = tuple(_BY_SUFFIX)


def kind_by_name(path: str) -> str:
    """Tells what a picture's name says: one of `KINDS`; the name ends in one of
    `PICTURE_SUFFIXES`.
    """
    return _BY_SUFFIX[path[path.rindex(".") :].lower()]


def kind_by_content(encoded: bytes) -> str | None:
    """Tells what a file's first bytes say: one of `KINDS`, or None."""
    return next(
        (
            kind
            for kind, (start, signature) in _SIGNATURES.items()
            if encoded.startswith(signature, start)
        ),
        None,
    )


def why_undecodable(encoded: bytes, decoder: str) -> str:
    """Says, for a person, why bytes that do not decode are no good.

    Args:
        encoded: the file.
        decoder: what has tried.
    """
    if not encoded:
        return "empty file"
    if kind_by_content(encoded) is None:
        return "no JPEG, PNG, GIF, BMP or WebP picture"
    return f"truncated or damaged picture, or one of a kind that {decoder} does not decode"

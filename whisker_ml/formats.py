"""Image formats: which are used, how their files are named and begin, and how large a picture may
be. Scan, training, served models and commands that look for pictures share this.
"""

from pathlib import Path

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
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".webp": "WEBP",
}
FORMATS = tuple(_SIGNATURES)
SUFFIXES = tuple(_BY_SUFFIX)

# Pictures too, which TensorFlow does not decode; ImageMagick (imagemagick.org) does.
CONVERTIBLE = (".heic", ".heif", ".avif", ".tif", ".tiff", ".jp2", ".jxl", ".psd", ".svg", ".dng")
CONVERT = "magick mogrify -format jpg"

# Width times height at most, unless a flag says otherwise: decoded, such a picture takes 300 MB.
MAX_PIXELS = 100_000_000


def format_by_name(path: str) -> str:
    """Tells what a picture's name says: one of `FORMATS`, or nothing."""
    return _BY_SUFFIX.get(Path(path).suffix.lower(), "")


def format_by_content(encoded: bytes) -> str | None:
    """Tells what a file's first bytes say: one of `FORMATS`, or None."""
    return next(
        (
            name
            for name, (start, signature) in _SIGNATURES.items()
            if encoded.startswith(signature, start)
        ),
        None,
    )

"""Image formats: which are used, how their files are named and begin, and how large a picture may
be. Scan, training, served models and commands that look for pictures share this.
"""

import struct
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


# Where width and height stand, and how (struct); of BMP the height is negative where rows go down.
_SIZES = {"PNG": (16, ">II"), "BMP": (18, "<ii")}
# The same for the kinds of WebP, by the name of their first chunk: where a number stands, and how,
# from which of its bits on width and height, how many bits each, and what is added to them.
_WEBP = {
    b"VP8 ": (26, "<I", 0, 16, 14, 0),
    b"VP8L": (21, "<I", 0, 14, 14, 1),
    b"VP8X": (22, "<Q", 16, 40, 24, 1),
}
# Steps to the size, each over a segment: more than any camera or editor makes it.
_MOST_STEPS = 1000


def pixels(encoded: bytes) -> int:
    """Reads from a picture's header how many pixels it has: width times height.

    Returns:
        0 for what is no picture; `MAX_PIXELS` for one that hides its size behind a thousand
        segments.
    """
    name = format_by_content(encoded)
    walks = {"JPEG": _jpeg_pixels, "GIF": _gif_pixels, "WEBP": _webp_pixels}
    try:
        if name is None:
            return 0
        if name in walks:
            return walks[name](encoded)
        start, layout = _SIZES[name]
        width, height = struct.unpack_from(layout, encoded, start)
    except (struct.error, KeyError, IndexError):
        return 0
    return abs(width * height)


def _jpeg_pixels(encoded: bytes) -> int:
    """Walks from segment to segment to the frame header (ISO/IEC 10918-1, B.2.2)."""
    position = 2
    for _ in range(_MOST_STEPS):
        marker = encoded[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", encoded, position + 5)
            return int(width * height)
        position += 2 + struct.unpack_from(">H", encoded, position + 2)[0]
    return MAX_PIXELS


def _gif_pixels(encoded: bytes) -> int:
    """Walks over extensions to the first image, which decoders go by, whatever the screen is said
    to be (GIF89a, 18 to 23).
    """
    position = 13 + (3 << (encoded[10] & 7) + 1 if encoded[10] & 0x80 else 0)
    inside = False  # an extension: blocks with their length first, to one without
    for _ in range(_MOST_STEPS):
        if inside:
            inside = encoded[position] > 0
            position += 1 + encoded[position]
        elif encoded[position] == 0x21:
            inside = True
            position += 2
        else:
            width, height = struct.unpack_from("<HH", encoded, position + 5)
            return int(width * height)
    return MAX_PIXELS


def _webp_pixels(encoded: bytes) -> int:
    """Reads the first chunk (RFC 9649, 2.5 to 2.7)."""
    start, layout, first, second, bits, added = _WEBP[encoded[12:16]]
    (packed,) = struct.unpack_from(layout, encoded, start)
    width, height = ((packed >> shift) % 2**bits + added for shift in (first, second))
    return int(width * height)

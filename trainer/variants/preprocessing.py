"""From encoded bytes to pixels: the only copy, used by scan, training, cache, evaluation and the
exported model. All of it is plain TensorFlow operations, so that TensorFlow Serving does the same.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf

from whisker_ml.formats import CONVERT, MAX_PIXELS, format_by_content

# Goes up when the same bytes give other pixels. 2: upright by the orientation tag, palettes of BMP.
PIXELS_VERSION = 2

# From these bytes format, size and peculiarities of a picture are known.
_HEADER_BYTES = 70

# How bytes begin of pictures that are of no format of ours, and what they are.
_CONVERT = f"convert it, for example with ImageMagick: {CONVERT}"
_CONVERTIBLE = {
    rb".{4}ftyp(avif|avis)": f"an AVIF picture; {_CONVERT}",
    rb".{4}ftyp(hei|hev|mif1|msf1)": f"a HEIC picture; {_CONVERT}",
    rb"II\*\0|MM\0\*": f"a TIFF picture; {_CONVERT}",
}

# Segments or chunks of a file that are looked through for its orientation tag at most.
_MOST_SEGMENTS = 64
# Of a directory of TIFF data; they are sorted, and the tag is one of the first.
_MOST_ENTRIES = 64
# A comment of 250 kB before the first image of a GIF.
_MOST_GIF_BLOCKS = 1024
_ORIENTATION_TAG = 0x0112
_SHORT, _LONG = 3, 4  # types of numbers in TIFF 6.0, section 2


def decode(
    image_bytes: tf.Tensor, max_pixels: int = MAX_PIXELS, orientation: tf.Tensor | None = None
) -> tf.Tensor:
    """Decodes one picture and turns it upright. What this refuses is no picture, in scan, split,
    training and served.

    An animated GIF gives its first frame, an animated WebP is refused; transparency is dropped.

    Args:
        image_bytes: string scalar, an encoded JPEG, PNG, GIF, BMP or WebP.
        max_pixels: width times height at most.
        orientation: int64 scalar, 1…8, where it is known already: what `_orientation` gives.

    Returns:
        uint8 [height, width, 3], 0…255.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are no picture, a damaged one, one with too many
            pixels, or one that the decoder would misread.
    """
    header = _read(image_bytes, 0, _HEADER_BYTES)
    pixels = tf.cond(
        header[0] == 0xFF,
        lambda: _jpeg(image_bytes, max_pixels),
        lambda: _other_format(image_bytes, header, max_pixels),
    )
    if orientation is None:
        # Only of what decodes: a call that is under way when another operation fails ends as
        # "cancelled", which is no answer about the picture.
        with tf.control_dependencies([pixels]):
            orientation = _orientation(tf.identity(image_bytes))
    pixels = tf.cond(
        orientation > 1, lambda: _turned(pixels, orientation), lambda: tf.identity(pixels)
    )
    return tf.ensure_shape(pixels, [None, None, 3])


def why_undecodable(encoded: bytes, max_pixels: int = MAX_PIXELS) -> str:
    """Says, for a person, why bytes that do not decode are no picture."""
    if not encoded:
        return "empty file"
    for begins, what in _CONVERTIBLE.items():
        if re.match(begins, encoded, re.DOTALL):
            return what
    if format_by_content(encoded) is None:
        return "not a JPEG, PNG, GIF, BMP or WebP picture"
    try:
        decode(tf.constant(encoded), max_pixels)
    except tf.errors.OpError as error:
        _, refused, reason = error.message.partition("assertion failed: [")
        if refused:
            return reason.partition("]")[0]
    return "truncated or damaged picture, or one of a format that TensorFlow does not decode"


def decode_and_resize(
    image_bytes: tf.Tensor,
    image_size: int,
    max_pixels: int = MAX_PIXELS,
    orientation: tf.Tensor | None = None,
) -> tf.Tensor:
    """Decodes one picture and stretches it to a square.

    Args:
        image_bytes: string scalar, as `decode` takes it.
        image_size: side of the square in pixels.
        max_pixels: width times height at most.
        orientation: as `decode` takes it.

    Returns:
        uint8 [image_size, image_size, 3], 0…255.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are no picture, as `decode` says.
    """
    pixels = decode(image_bytes, max_pixels, orientation)
    # Bilinear without antialias is what the notebook trained with, and rounding makes a uint8 cache
    # lossless: left out, it moved probabilities by 0.02 between cached and uncached pictures.
    resized = tf.image.resize(pixels, [image_size, image_size], method="bilinear", antialias=False)
    return tf.cast(tf.round(resized), tf.uint8)


def decode_batch(
    image_bytes: tf.Tensor, image_size: int, max_pixels: int = MAX_PIXELS
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a batch so that bytes that are no picture hurt only themselves.

    Under server-side batching a request is executed together with those of strangers: an error
    would fail them all.

    Args:
        image_bytes: string [N].
        image_size: side of the square in pixels.
        max_pixels: width times height of a picture at most.

    Returns:
        Pixels, uint8 [N, image_size, image_size, 3], zeros where there is no picture; and bool [N],
        true where there is one.
    """
    count = tf.size(image_bytes)
    nothing = tf.data.Dataset.from_tensors(tf.zeros([image_size, image_size, 3], tf.uint8)).map(
        lambda zeros: (count, zeros)
    )
    decoded = (
        tf.data.Dataset.from_tensor_slices(
            (tf.range(count), image_bytes, _orientations(image_bytes))
        )
        .map(
            # Nothing in it is to be converted, and looking for that takes a while.
            tf.autograph.experimental.do_not_convert(
                lambda index, encoded, orientation: (
                    index,
                    decode_and_resize(encoded, image_size, max_pixels, orientation),
                )
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        .ignore_errors()
        # One row that is always there: a batch of nothing has no single element.
        .concatenate(nothing)
        .batch(tf.cast(count, tf.int64) + 1)
        .get_single_element()
    )
    indices, pixels = decoded
    # Row `count` takes the row that was added, and is cut off again.
    scattered = tf.scatter_nd(
        indices[:, tf.newaxis], pixels, tf.concat([[count + 1], tf.shape(pixels)[1:]], 0)
    )
    valid = tf.scatter_nd(indices[:, tf.newaxis], tf.ones_like(indices), [count + 1])
    pixels = tf.ensure_shape(scattered[:count], [None, image_size, image_size, 3])
    return pixels, tf.cast(valid[:count], tf.bool)


# One function for each format.


def _apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function one call in the graph. Inlined, its operations would be visited, and made
    ready in every request, for pictures that do not need them.
    """
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def _jpeg(image_bytes: tf.Tensor, max_pixels: int) -> tf.Tensor:
    shape = tf.cast(tf.image.extract_jpeg_shape(image_bytes), tf.int64)
    return _decoded(_checked(image_bytes, shape[0] * shape[1], max_pixels))


# Of a header: width times height, why such a picture is refused, if it is, and whether it has an
# alpha channel.
_Properties = tuple[tf.Tensor, str | tf.Tensor, bool | tf.Tensor]


@_apart
def _other_format(image_bytes: tf.Tensor, header: tf.Tensor, max_pixels: int) -> tf.Tensor:
    formats = {b"\x89": _png, b"G": _gif, b"B": _bmp, b"R": _webp}
    size, refusal, alpha = tf.case(
        [
            (header[0] == first[0], partial(properties, image_bytes, header))
            for first, properties in formats.items()
        ],
        default=lambda: (_number(0), "", False),
    )
    whole = _checked(image_bytes, size, max_pixels, refusal)
    # The decoder wants to be asked for as many channels as there are.
    pixels = tf.cond(alpha, lambda: _decoded(whole, 4)[..., :3], lambda: _decoded(whole))
    return tf.cond(
        (header[0] == ord("B")) & (_little(header[28:30]) == 8),
        lambda: _palette_colours(pixels, image_bytes, header),
        lambda: tf.identity(pixels),
    )


def _checked(
    image_bytes: tf.Tensor, size: tf.Tensor, max_pixels: int, refusal: str | tf.Tensor = ""
) -> tf.Tensor:
    """The bytes, once their header has been looked at."""
    refusal = tf.where(size <= max_pixels, refusal, f"more than {max_pixels:,} pixels")
    check = tf.raw_ops.Assert(condition=tf.equal(refusal, ""), data=[refusal])
    with tf.control_dependencies([check]):
        return tf.identity(image_bytes)


def _png(_image_bytes: tf.Tensor, header: tf.Tensor) -> _Properties:
    return tf.reduce_prod(_sides(header[23:15:-1])), "", False


def _gif(image_bytes: tf.Tensor, header: tf.Tensor) -> _Properties:
    # The decoder goes by the first image, whatever the screen is said to be.
    screen = tf.reduce_prod(_sides(header[6:10]))
    return tf.maximum(screen, _first_gif_image(image_bytes, header)), "", False


def _bmp(_image_bytes: tf.Tensor, header: tf.Tensor) -> _Properties:
    """Refuses what the decoder, which does not look at these fields, would misread."""
    compression = _little(header[30:34])
    # Where the masks of 32 bits are given, they must be blue, green, red from the first byte on.
    masks = tf.reduce_all(_little(tf.reshape(header[54:66], [3, 4])) == [0xFF0000, 0xFF00, 0xFF])
    plain = (compression == 0) | ((compression == 3) & masks)
    readable = plain & (_little(header[14:18]) >= 40)
    sides = _sides(header[18:26])
    # The height is negative where the first row is the top one.
    size = sides[0] * tf.minimum(sides[1], 2**32 - sides[1])
    refusal = tf.where(readable, "", "a BMP of an unusual format; save it as PNG")
    # Where it is none of the usual kinds, its size is not where this looked for it.
    return _only(readable, size), refusal, False


def _webp(_image_bytes: tf.Tensor, header: tf.Tensor) -> _Properties:
    """Of the three kinds of WebP (developers.google.com/speed/webp/docs/riff_container)."""
    extended, lossless = _equal(header[12:16], b"VP8X"), _equal(header[12:16], b"VP8L")
    sides = tf.where(
        extended,
        1 + _sides(header[24:30]),
        tf.where(
            lossless,
            1 + _little(header[21:25]) // [1, 2**14] % 2**14,
            _sides(header[26:30]) % 2**14,
        ),
    )
    animated = extended & _bit(header[20], 0x02)
    refusal = tf.where(animated, "an animated WebP; save its first frame as a picture", "")
    alpha = (extended & _bit(header[20], 0x10)) | (lossless & _bit(header[24], 0x10))
    return tf.reduce_prod(sides), refusal, alpha


# Reading headers. Numbers are int64: no sum of what a file may say overflows.


def _decoded(image_bytes: tf.Tensor, channels: int = 3) -> tf.Tensor:
    return tf.io.decode_image(image_bytes, channels=channels, expand_animations=False)


def _length(image_bytes: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.strings.length(image_bytes), tf.int64)


def _read(image_bytes: tf.Tensor, start: tf.Tensor | int, count: int) -> tf.Tensor:
    """Bytes as int64 [count]; zeros beyond the end."""
    start = tf.minimum(tf.cast(start, tf.int64), _length(image_bytes))
    part = tf.strings.substr(image_bytes, start, tf.constant(count, tf.int64))
    return tf.cast(tf.io.decode_raw(part, tf.uint8, fixed_length=count), tf.int64)


def _little(digits: tf.Tensor) -> tf.Tensor:
    """Numbers whose last byte counts most: int64 [...] from bytes [..., n]."""
    return tf.reduce_sum(digits * [256**power for power in range(digits.shape[-1])], axis=-1)


def _big(digits: tf.Tensor) -> tf.Tensor:
    """Numbers whose first byte counts most."""
    return _little(tf.reverse(digits, [-1]))


def _sides(digits: tf.Tensor) -> tf.Tensor:
    """Width and height, one after the other: int64 [2]."""
    return _little(tf.reshape(digits, [2, -1]))


def _equal(digits: tf.Tensor, expected: bytes) -> tf.Tensor:
    return tf.reduce_all(digits == list(expected))


def _only(condition: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """The number where the condition holds, else 0."""
    return tf.where(condition, number, tf.zeros_like(number))


def _number(value: int) -> tf.Tensor:
    return tf.constant(value, tf.int64)


def _bit(digit: tf.Tensor, value: int) -> tf.Tensor:
    return digit // value % 2 == 1


def _palette_colours(pixels: tf.Tensor, image_bytes: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
    """Colours of a BMP of 8 bits, whose numbers the decoder gives as a grey value."""
    start, stop = 14 + _little(header[14:18]), _little(header[10:14])
    length = tf.clip_by_value(stop - start, 0, 1024) // 4 * 4
    start = tf.minimum(start, _length(image_bytes))
    table = tf.io.decode_raw(tf.strings.substr(image_bytes, start, length), tf.uint8)
    # Numbers that the palette does not have are an error of `gather`: the file is damaged.
    return tf.gather(tf.reshape(table, [-1, 4])[:, 2::-1], tf.cast(pixels[..., 0], tf.int32))


def _first_gif_image(image_bytes: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
    """Pixels of the first image of a GIF (GIF89a, sections 17 to 25): int64; 0 where there is none
    within the first blocks.
    """
    colours = _only(_bit(header[10], 0x80), 3 * 2 ** (1 + header[10] % 8))

    def block(
        position: tf.Tensor, inside: tf.Tensor, _size: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        head = _read(image_bytes, position, 9)
        # Inside of an extension, parts with their length before them, up to one of length 0.
        following = tf.where(inside, position + 1 + head[0], position + 2)
        still_inside = tf.where(inside, head[0] > 0, head[0] == 0x21)
        found = ~inside & (head[0] == 0x2C)
        size = _little(head[5:7]) * _little(head[7:9])
        return following, still_inside, _only(found, size)

    _, _, size = tf.while_loop(
        lambda position, _inside, size: (size == 0) & (position < _length(image_bytes)),
        block,
        (13 + colours, tf.constant(False), _number(0)),
        maximum_iterations=_MOST_GIF_BLOCKS,
    )
    return size


# Turning upright by the orientation tag (Exif 2.3, tag 0x0112).

# From the first bytes of a segment: how far it is to the next one, and to its TIFF data, 0 where
# there are none, and how many bytes they have.
_Segment = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def _jpeg_segment(head: tf.Tensor) -> _Segment:
    marker, size = head[1], _big(head[2:4])
    # After SOS (0xDA) comes the picture itself.
    ends = (head[0] != 0xFF) | (marker == 0xDA) | (marker == 0xD9)
    exif = ~ends & (marker == 0xE1) & _equal(head[4:10], b"Exif\0\0")
    alone = (marker == 0x01) | ((marker >= 0xD0) & (marker <= 0xD8))
    following = tf.where(alone, _number(2), _only(size >= 2, 2 + size))
    following = tf.where(marker == 0xFF, _number(1), following)  # a fill byte
    return _only(~ends, following), _only(exif, _number(10)), tf.maximum(size - 8, 0)


def _png_chunk(head: tf.Tensor) -> _Segment:
    size = _big(head[:4])
    return 12 + size, _only(_equal(head[4:8], b"eXIf"), _number(8)), size


def _webp_chunk(head: tf.Tensor) -> _Segment:
    size = _little(head[4:8])
    # Some programs write the six bytes that belong before it in JPEG.
    skipped = _only(_equal(head[8:], b"Exif\0\0"), _number(6))
    tiff = _only(_equal(head[:4], b"EXIF"), 8 + skipped)
    return 8 + size + size % 2, tiff, size - skipped


# Of files that may have a tag, by their first byte (JPEG, PNG, WebP): what they hold then, as a
# regular expression; where the first segment is, and what reads one.
_TAGGED = {
    0xFF: (r"Exif\x00\x00", 2, _jpeg_segment),
    0x89: ("eXIf", 8, _png_chunk),
    0x52: ("EXIF", 12, _webp_chunk),
}


def _orientations(image_bytes: tf.Tensor) -> tf.Tensor:
    """Orientations of a batch: int64 [N], 1…8, from string [N]."""
    return tf.cond(
        tf.reduce_any(
            [tf.reduce_any(_holds(image_bytes, name)) for name, _, _ in _TAGGED.values()]
        ),
        lambda: tf.map_fn(_orientation, image_bytes, fn_output_signature=tf.int64),
        lambda: tf.ones_like(image_bytes, tf.int64),
    )


def _orientation(image_bytes: tf.Tensor) -> tf.Tensor:
    """How a picture is stored: int64 scalar, 1…8; 1 where nothing says so that makes sense."""
    first = _read(image_bytes, 0, 1)[0]
    return tf.case(
        [
            (
                (first == byte) & _holds(image_bytes, name),
                partial(_tagged_orientation, image_bytes, start, segment),
            )
            for byte, (name, start, segment) in _TAGGED.items()
        ],
        default=lambda: _number(1),
    )


def _holds(image_bytes: tf.Tensor, name: str) -> tf.Tensor:
    """Whether what a regular expression describes is anywhere in a file: this keeps files without
    a tag cheap.
    """
    without = tf.strings.regex_replace(image_bytes, name, "", replace_global=False)
    return tf.strings.length(without) < tf.strings.length(image_bytes)


@_apart
def _tagged_orientation(
    image_bytes: tf.Tensor, start: int, segment: Callable[[tf.Tensor], _Segment]
) -> tf.Tensor:
    """Looks through segments for TIFF data. A tag counts only in the segment that owns it."""
    length = _length(image_bytes)

    def step(position: tf.Tensor, _tiff: tf.Tensor, _size: tf.Tensor) -> _Segment:
        following, tiff, size = segment(_read(image_bytes, position, 14))
        owned = (tiff > 0) & (position + tiff + size <= length)
        return _only(following > 0, position + following), _only(owned, position + tiff), size

    _, tiff, size = tf.while_loop(
        lambda position, tiff, _size: (tiff == 0) & (position > 0) & (position < length),
        step,
        (_number(start), _number(0), _number(0)),
        maximum_iterations=_MOST_SEGMENTS,
    )
    return tf.cond(tiff > 0, lambda: _tiff_orientation(image_bytes, tiff, size), lambda: _number(1))


@_apart
def _turned(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    pixels = tf.cond(
        orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: tf.identity(pixels)
    )
    # From the bottom up, and from right to left.
    reversed_axes = tf.reduce_any(orientation == [[3, 4, 7, 8], [2, 3, 6, 7]], axis=1)
    return tf.reverse(pixels, tf.where(reversed_axes)[:, 0])


@_apart
def _tiff_orientation(image_bytes: tf.Tensor, start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Looks the tag up in the first directory of TIFF data."""
    head = _read(image_bytes, start, 8)
    little = _equal(head[:4], b"II*\0")

    def number(digits: tf.Tensor) -> tf.Tensor:
        return tf.where(little, _little(digits), _big(digits))

    directory = number(head[4:])
    is_tiff = (little | _equal(head[:4], b"MM\0*")) & (directory >= 8)
    count = number(_read(image_bytes, start + directory, 2))
    entries = _only(is_tiff, tf.minimum(count, (size - directory - 2) // 12))
    rows = tf.reshape(
        _read(image_bytes, start + directory + 2, 12 * _MOST_ENTRIES), [_MOST_ENTRIES, 12]
    )
    kind = number(rows[:, 2:4])
    value = tf.where(kind == _SHORT, number(rows[:, 8:10]), number(rows[:, 8:]))
    usable = (
        (tf.range(_MOST_ENTRIES, dtype=tf.int64) < entries)
        & (number(rows[:, :2]) == _ORIENTATION_TAG)
        & ((kind == _SHORT) | (kind == _LONG))
        & (number(rows[:, 4:8]) == 1)
        & (tf.clip_by_value(value, 1, 8) == value)
    )
    return tf.concat([value[usable], tf.ones([1], tf.int64)], 0)[0]

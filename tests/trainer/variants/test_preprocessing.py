import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainer.variants.preprocessing import decode_and_resize, decode_batch, why_undecodable

SIZE = 40


@pytest.fixture(scope="module")
def photo():
    generator = np.random.default_rng(0)
    small = generator.integers(0, 255, (9, 12, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((90, 70), Image.Resampling.BICUBIC)


def encode(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def mean(encoded):
    return decode_and_resize(tf.constant(encoded), SIZE).numpy().mean()


def test_pixels_are_those_of_bilinear_resizing_rounded(photo):
    encoded = encode(photo, "PNG")
    expected = tf.image.resize(
        np.asarray(photo), [SIZE, SIZE], method="bilinear", antialias=False
    ).numpy()
    decoded = decode_and_resize(tf.constant(encoded), SIZE)
    assert decoded.dtype == tf.uint8
    np.testing.assert_array_equal(decoded.numpy(), np.rint(expected).astype(np.uint8))


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("JPEG", "CMYK", {}),
        ("JPEG", "L", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("PNG", "P", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("PNG", "1", {}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("BMP", "L", {}),
        ("WEBP", "RGB", {"lossless": True}),
    ],
)
def test_every_usual_kind_of_picture_decodes_to_what_it_shows(photo, form, mode, options):
    picture = photo.convert(mode)
    reference = (
        decode_and_resize(tf.constant(encode(picture.convert("RGB"), "PNG")), SIZE).numpy().mean()
    )
    assert mean(encode(picture, form, **options)) == pytest.approx(reference, abs=3)


def test_animated_gif_gives_its_first_frame(photo):
    frames = encode(
        photo.convert("P"), "GIF", save_all=True, append_images=[Image.new("P", photo.size)]
    )
    assert mean(frames) == mean(encode(photo.convert("P"), "GIF"))


def test_sixteen_bit_picture_keeps_its_brightness():
    levels = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    assert mean(encode(Image.fromarray(levels), "PNG")) == pytest.approx(127.5, abs=1)


def test_one_pixel_fills_the_square():
    pixels = decode_and_resize(
        tf.constant(encode(Image.new("RGB", (1, 1), (10, 20, 30)), "PNG")), SIZE
    ).numpy()
    assert (pixels == [10, 20, 30]).all()


def orientation_data(value, order="<", kind=3, count=1, entries=1, directory=8):
    """TIFF data with one entry before the orientation tag."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    width = struct.pack(f"{order}HHII", 0x0100, 4, 1, 77)
    stored = struct.pack(f"{order}H2x" if kind == 3 else f"{order}I", value)
    tag = struct.pack(f"{order}HHI", 0x0112, kind, count) + stored
    return (
        mark + struct.pack(f"{order}IH", directory, entries + 1) + width + tag * entries + bytes(4)
    )


def as_segment(marker, content):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def tagged_jpeg(jpeg, tiff, before=b""):
    return jpeg[:2] + before + as_segment(0xE1, b"Exif\0\0" + tiff) + jpeg[2:]


def as_chunk(name, content):
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def tagged_png(png, tiff, last=False):
    # IHDR is 25 bytes after the signature; IEND is the last 12.
    position = len(png) - 12 if last else 33
    return png[:position] + as_chunk(b"eXIf", tiff) + png[position:]


def tagged_webp(picture, tiff):
    content = encode(picture, "WEBP", lossless=True)[12:]
    extended = struct.pack("<I", 8) + b"".join(
        (side - 1).to_bytes(3, "little") for side in picture.size
    )
    body = b"WEBPVP8X" + struct.pack("<I", 10) + extended + content
    body += b"EXIF" + struct.pack("<I", len(tiff)) + tiff + b"\0" * (len(tiff) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


# How a picture is stored so that its tag turns it back.
STORED = {
    1: lambda picture: picture,
    2: lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda picture: picture.transpose(Image.Transpose.ROTATE_180),
    4: lambda picture: picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda picture: picture.transpose(Image.Transpose.TRANSPOSE),
    6: lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
    7: lambda picture: picture.transpose(Image.Transpose.TRANSVERSE),
    8: lambda picture: picture.transpose(Image.Transpose.ROTATE_270),
}


def pixels(encoded):
    return decode_one(tf.constant(encoded)).numpy()


decode_one = tf.function(
    lambda encoded: decode_and_resize(encoded, SIZE),
    input_signature=[tf.TensorSpec([], tf.string)],
)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tag", STORED)
def test_picture_is_upright_however_it_is_stored(photo, tag, order):
    stored, tiff = STORED[tag](photo), orientation_data(tag, order)
    expected = pixels(encode(photo, "PNG"))
    for encoded in (
        tagged_png(encode(stored, "PNG"), tiff),
        tagged_png(encode(stored, "PNG"), tiff, last=True),
        tagged_webp(stored, tiff),
        tagged_webp(stored, b"Exif\0\0" + tiff),
    ):
        np.testing.assert_array_equal(pixels(encoded), expected)
    fine = {"quality": 95, "subsampling": 0}
    jpeg = tagged_jpeg(encode(stored, "JPEG", **fine), tiff)
    rounding = np.abs(pixels(jpeg).astype(int) - pixels(encode(photo, "JPEG", **fine)))
    assert rounding.mean() < 3
    assert rounding.max() <= 16
    # Pillow reads the tags of these files as well.
    assert Image.open(io.BytesIO(jpeg)).getexif()[0x0112] == tag


def test_tag_is_found_behind_other_segments(photo):
    expected = pixels(tagged_jpeg(encode(photo, "JPEG"), orientation_data(6)))
    jpeg, tiff = encode(photo, "JPEG"), orientation_data(6)
    colours = as_segment(0xE2, b"ICC_PROFILE\0" + bytes(60_000))
    comment = as_segment(0xFE, b"Exif\0\0" + orientation_data(3))
    for before in (
        colours,
        comment,
        b"\xff\xff",
        as_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
    ):
        np.testing.assert_array_equal(pixels(tagged_jpeg(jpeg, tiff, before)), expected)
    several = tagged_jpeg(jpeg, orientation_data(6, entries=300))
    np.testing.assert_array_equal(pixels(several), expected)
    as_long = tagged_jpeg(jpeg, orientation_data(6, kind=4))
    np.testing.assert_array_equal(pixels(as_long), expected)


def lying_tags(jpeg, png):
    tiff = orientation_data(6)
    segment = as_segment(0xE1, b"Exif\0\0" + tiff)
    return {
        "no orientation": tagged_jpeg(jpeg, orientation_data(0)),
        "value 9": tagged_jpeg(jpeg, orientation_data(9)),
        "text": tagged_jpeg(jpeg, orientation_data(6, kind=2)),
        "two numbers": tagged_jpeg(jpeg, orientation_data(6, count=2)),
        "directory far away": tagged_jpeg(jpeg, orientation_data(6, directory=2**32 - 1)),
        "directory in the head": tagged_jpeg(jpeg, orientation_data(6, directory=2)),
        "no TIFF": tagged_jpeg(jpeg, b"XX" + tiff[2:]),
        "nothing": tagged_jpeg(jpeg, b""),
        "cut off": tagged_jpeg(jpeg, tiff[:-14]),
        "in a comment": jpeg[:2] + as_segment(0xFE, segment) + jpeg[2:],
        "after the end": jpeg + segment,
        "in a text of PNG": png[:33] + as_chunk(b"tEXt", b"eXIf\0" + tiff) + png[33:],
        "after the end of PNG": png + as_chunk(b"eXIf", tiff)[:-8],
    }


def test_tag_that_is_broken_or_lies_counts_as_none(photo):
    jpeg, png = encode(photo, "JPEG"), encode(photo, "PNG")
    upright = {True: pixels(jpeg), False: pixels(png)}
    for name, encoded in lying_tags(jpeg, png).items():
        np.testing.assert_array_equal(
            pixels(encoded), upright[encoded.startswith(b"\xff")], err_msg=name
        )


def test_no_byte_that_is_changed_fails_otherwise_than_as_no_picture(photo, decode):
    generator = np.random.default_rng(0)
    tiff = orientation_data(6)
    whole = [
        tagged_jpeg(encode(photo, "JPEG"), tiff),
        tagged_png(encode(photo, "PNG"), tiff),
        tagged_webp(photo, tiff),
        encode(photo.convert("P"), "BMP"),
        encode(photo.convert("P"), "GIF"),
    ]
    batch = []
    for number in range(1200):
        changed = bytearray(whole[number % len(whole)])
        for position in generator.integers(0, 130, generator.integers(1, 4)):
            changed[position] = generator.integers(0, 256)
        if number % 7 == 0:
            del changed[generator.integers(1, len(changed)) :]
        try:
            assert pixels(bytes(changed)).shape == (SIZE, SIZE, 3)
            valid = True
        except tf.errors.InvalidArgumentError:
            valid = False
        batch.append((bytes(changed), valid))
        if len(batch) == 16:
            # Beside one another, as they are served, none of them hurts another.
            _, answered = decode([encoded for encoded, _ in batch])
            assert answered.numpy().tolist() == [valid for _, valid in batch]
            batch = []


@pytest.mark.parametrize("colours", [2, 16, 256])
def test_palette_of_a_bmp_gives_its_colours(photo, colours):
    picture = photo.quantize(colours)
    if colours < 256:  # of 8 bits a pixel in any case
        picture.putpixel((0, 0), 1)
    encoded = encode(picture, "BMP")
    if struct.unpack("<H", encoded[28:30]) == (8,):
        np.testing.assert_array_equal(
            pixels(encoded), pixels(encode(picture.convert("RGB"), "PNG"))
        )
    else:
        assert "TensorFlow does not decode" in why_undecodable(encoded)


def test_transparency_of_a_webp_is_dropped(photo):
    transparent = photo.convert("RGBA")
    transparent.putalpha(128)
    for encoded in (
        encode(transparent, "WEBP", lossless=True, exact=True),
        encode(transparent, "WEBP", lossless=True, exact=True, exif=orientation_data(1)),
    ):
        np.testing.assert_array_equal(pixels(encoded), pixels(encode(photo, "PNG")))
    assert mean(encode(transparent, "WEBP")) == pytest.approx(mean(encode(photo, "PNG")), abs=3)


def test_what_is_refused_is_refused_by_name(photo):
    bmp = bytearray(encode(photo, "BMP"))
    bmp[30] = 1  # compressed
    moving = encode(photo, "WEBP", save_all=True, append_images=[photo.rotate(90)])
    wide = bytearray(encode(photo, "PNG"))
    wide[16:24] = struct.pack(">II", 20_000, 20_000)
    for encoded, reason in {
        bytes(bmp): "a BMP of an unusual format; save it as PNG",
        moving: "an animated WebP; save its first frame as a picture",
        encode(Image.new("1", (10_001, 10_000)), "PNG"): "more than 100,000,000 pixels",
        bytes(wide): "more than 100,000,000 pixels",
        b"\0\0\0\x18ftypheic": "a HEIC picture; convert it",
        b"\0\0\0\x18ftypavif": "an AVIF picture; convert it",
        encode(photo, "TIFF"): "a TIFF picture; convert it",
        b"rubbish": "not a JPEG, PNG, GIF, BMP or WebP picture",
        b"": "empty file",
    }.items():
        assert why_undecodable(encoded).startswith(reason)
        with pytest.raises(tf.errors.InvalidArgumentError):
            pixels(encoded)


def bmp(bits, rows, palette=b"", compression=0, height=None, head=40):
    """A BMP as programs other than Pillow write it; rows: uint8 [height, bytes], from the top."""
    start = 14 + head + len(palette)
    upwards = height is None
    data = (rows[::-1] if upwards else rows).tobytes()
    width = rows.shape[1] * 8 // bits
    fields = (head, width, len(rows) if upwards else height, 1, bits, compression, 0, 0, 0, 0, 0)
    return (
        struct.pack("<2sIII", b"BM", start + len(data), 0, start)
        + struct.pack("<IiiHHIIiiII", *fields)
        + bytes(head - 40)
        + palette
        + data
    )


def test_bmp_of_many_kinds_is_right_or_refused():
    generator = np.random.default_rng(0)
    palette = generator.integers(0, 256, (256, 4), np.uint8)
    numbers = generator.integers(0, 256, (20, 36), np.uint8)
    expected = decode_and_resize(
        tf.constant(encode(Image.fromarray(palette[:, 2::-1][numbers]), "PNG")), SIZE
    )
    for encoded in (
        bmp(8, numbers, palette.tobytes()),
        bmp(8, numbers, palette.tobytes(), height=-20),
        bmp(8, numbers, palette.tobytes(), head=124),
    ):
        np.testing.assert_array_equal(pixels(encoded), expected)
    colours = generator.integers(0, 256, (20, 36, 4), np.uint8)
    rows = colours.reshape(20, -1)
    masks = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    shown = decode_and_resize(
        tf.constant(encode(Image.fromarray(colours[:, :, 2::-1].copy()), "PNG")), SIZE
    )
    np.testing.assert_array_equal(pixels(bmp(32, rows, masks, compression=3)), shown)
    old = b"BM" + struct.pack("<IIIIHHHH", 26, 0, 26, 12, 36, 20, 1, 24) + bytes(36 * 20 * 3)
    for encoded in (
        bmp(8, numbers, palette.tobytes(), compression=1),
        bmp(32, rows, masks[::-1], compression=3),
        old,
    ):
        assert why_undecodable(encoded) == "a BMP of an unusual format; save it as PNG"
    # Numbers that the palette does not have.
    assert why_undecodable(bmp(8, numbers, palette[:16].tobytes())).startswith("truncated")


@pytest.mark.parametrize("comment", [b"", b"by hand" * 100])
def test_limit_of_pixels_of_a_gif_goes_by_its_first_image(comment):
    encoded = bytearray(encode(Image.new("P", (300, 200)), "GIF", comment=comment))
    encoded[6:10] = struct.pack("<HH", 1, 1)  # the screen
    assert decode_and_resize(tf.constant(bytes(encoded)), SIZE, 60_000).shape == (SIZE, SIZE, 3)
    assert why_undecodable(bytes(encoded), 59_999) == "more than 59,999 pixels"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_limit_of_pixels_holds_for_every_format(photo, form):
    encoded = encode(photo, form)
    count = photo.width * photo.height
    assert decode_and_resize(tf.constant(encoded), SIZE, count).shape == (SIZE, SIZE, 3)
    assert why_undecodable(encoded, count - 1) == f"more than {count - 1:,} pixels"


@pytest.fixture(scope="module")
def decode():
    return tf.function(
        lambda encoded: decode_batch(encoded, SIZE),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )


def test_bytes_that_are_no_picture_hurt_only_themselves(decode, photo):
    good = [encode(photo.rotate(angle), "JPEG") for angle in (0, 20, 40)]
    bad = [
        b"",
        b"no picture",
        good[0][:100],
        good[0][: len(good[0]) // 2],
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
    ]
    pixels, valid = decode([bad[0], good[0], *bad[1:4], good[1], *bad[4:], good[2]])
    assert valid.numpy().tolist() == [False, True, False, False, False, True, False, False, True]
    expected = np.stack([decode_and_resize(tf.constant(encoded), SIZE) for encoded in good])
    np.testing.assert_array_equal(pixels.numpy()[valid.numpy()], expected)
    assert not pixels.numpy()[~valid.numpy()].any()


@pytest.mark.parametrize(("encoded", "valid"), [([], []), ([b"rubbish"], [False])])
def test_batch_without_a_picture_is_answered(decode, encoded, valid):
    pixels, answered = decode(tf.constant(encoded, tf.string))
    assert answered.numpy().tolist() == valid
    assert pixels.shape == (len(valid), SIZE, SIZE, 3)

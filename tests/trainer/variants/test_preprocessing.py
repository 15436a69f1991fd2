import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainer.variants.preprocessing import decode_and_resize, decode_batch

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


def test_orientation_tag_is_ignored(photo):
    tagged = Image.Exif()
    tagged[0x0112] = 6
    turned = encode(photo, "JPEG", exif=tagged.tobytes())
    np.testing.assert_array_equal(
        decode_and_resize(tf.constant(turned), SIZE),
        decode_and_resize(tf.constant(encode(photo, "JPEG")), SIZE),
    )


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

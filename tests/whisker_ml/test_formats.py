"""How many pixels a picture has, by its header alone."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from whisker_ml.formats import MAX_PIXELS, pixels

KINDS = {
    "baseline JPEG": {"format": "JPEG"},
    "progressive JPEG with EXIF": {"format": "JPEG", "progressive": True, "exif": b"x" * 5000},
    "PNG": {"format": "PNG"},
    "GIF": {"format": "GIF"},
    "BMP": {"format": "BMP"},
    "lossy WebP": {"format": "WEBP"},
    "lossless WebP": {"format": "WEBP", "lossless": True},
    "WebP with EXIF": {"format": "WEBP", "exif": b"x" * 50},
}


def encoded(width, height, **options):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 100, 0)).save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (300, 200), (17, 1025)])
def test_size_is_that_of_the_picture(kind, size):
    assert pixels(encoded(*size, **KINDS[kind])) == size[0] * size[1]


@pytest.mark.parametrize("kind", KINDS)
def test_cut_picture_is_no_error(kind):
    whole = encoded(300, 200, **KINDS[kind])
    assert {pixels(whole[:length]) for length in range(64)} <= {0, 60_000}


@pytest.mark.parametrize(
    "hidden",
    [
        b"\xff\xd8" + b"\xff\xe0\x00\x02" * 1001,
        b"\xff\xd8" + b"\xff" * 50_000_000,
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00" + b"\x21\xfe" + b"\x01x" * 25_000_000,
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00" + b"\x21\xfe\x00" * 10_000,
    ],
    ids=["segments", "fill bytes", "blocks", "extensions"],
)
@pytest.mark.timeout(10)
def test_picture_that_hides_its_size_counts_as_the_largest_at_once(hidden):
    assert pixels(hidden) == MAX_PIXELS


@pytest.mark.parametrize("colours", [2, 256])
def test_gif_has_the_size_of_its_first_image_whatever_its_screen_is(colours):
    buffer = io.BytesIO()
    Image.effect_noise((300, 200), 90).quantize(colours).save(
        buffer, "GIF", save_all=True, comment=b"c" * 600, loop=0, append_images=[]
    )
    whole = bytearray(buffer.getvalue())
    whole[6:10] = b"\x01\x00\x01\x00"
    assert pixels(bytes(whole)) == 60_000


@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF____WEBP", b""]),
    st.binary(max_size=200),
)
def test_any_bytes_have_a_number_of_pixels(start, rest):
    assert pixels(start + rest) >= 0

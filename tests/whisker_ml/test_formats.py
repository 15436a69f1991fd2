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


def test_jpeg_that_hides_its_size_counts_as_the_largest():
    assert pixels(b"\xff\xd8" + b"\xff\xe0\x00\x02" * 1001) == MAX_PIXELS


@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF____WEBP", b""]),
    st.binary(max_size=200),
)
def test_any_bytes_have_a_number_of_pixels(start, rest):
    assert pixels(start + rest) >= 0

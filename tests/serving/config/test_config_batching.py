"""Batching parameters: what is written is read, and what keeps a model from loading is refused by
name.
"""

import random
from pathlib import Path

import pytest

from serving.config import ConfigError, batching

DOCUMENTED = """
max_batch_size { value: 128 }
batch_timeout_micros { value: 0 }
max_enqueued_batches { value: 1000000 }
num_batch_threads { value: 8 }
allowed_batch_sizes: 32
allowed_batch_sizes: 128
"""

SPLITTING = "max_batch_size { value: 8 } enable_large_batch_splitting { value: true } "


def drawn(seed: int) -> dict[str, object]:
    """Fields that TensorFlow Serving accepts, some left out."""
    draw = random.Random(seed)
    largest = draw.randint(2, 4096)
    fields: dict[str, object] = {
        "max_batch_size": largest,
        "batch_timeout_micros": draw.choice([0, 1, 2**40]),
        "max_enqueued_batches": draw.randint(1, 10**6),
        "num_batch_threads": draw.randint(1, 64),
        "thread_pool_name": draw.choice(["", "pool", 'quote " and ünicode\n']),
        "allowed_batch_sizes": sorted({draw.randint(1, largest), largest}),
        "pad_variable_length_inputs": draw.random() < 0.5,
        "enable_large_batch_splitting": False,
    }
    if draw.random() < 0.5:
        limit = draw.randint(1, largest)
        fields |= {
            "enable_large_batch_splitting": True,
            "max_execution_batch_size": limit,
            "allowed_batch_sizes": sorted({max(1, limit // 2), limit}),
        }
    fields.pop(draw.choice(["batch_timeout_micros", "max_enqueued_batches", "thread_pool_name"]))
    return fields


@pytest.mark.parametrize("seed", range(25))
def test_what_make_writes_is_read_back_as_the_same_message(seed: int, tmp_path: Path) -> None:
    made = batching.make(**drawn(seed))
    batching.write(tmp_path / "batching.config", made)
    assert batching.read(tmp_path / "batching.config") == made


def test_the_text_that_tensorflow_serving_documents_is_read(tmp_path: Path) -> None:
    (tmp_path / "batching.config").write_text(DOCUMENTED)
    parameters = batching.read(tmp_path / "batching.config")
    assert (parameters.max_batch_size.value, list(parameters.allowed_batch_sizes)) == (
        128,
        [32, 128],
    )
    assert parameters.HasField("batch_timeout_micros")
    assert not parameters.HasField("thread_pool_name")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max_batch_size: 32",
            (
                r" is not a BatchingParameters \(1:17: Expected \"{\"\.\): expected protobuf's text"
                r" format"
            ),
        ),
        (
            "\n  max_batch { value: 1 }",
            r" is not a BatchingParameters \(2:3: .* has no field named \"max_batch\"\.\)",
        ),
        (
            "max_batch_size { value: 32 } allowed_batch_sizes: 8 allowed_batch_sizes: 16",
            (
                r": Last entry in allowed_batch_sizes must match max_batch_size; last entry was 16;"
                r" expected 32: append it"
            ),
        ),
        (
            "allowed_batch_sizes: 32",
            r": Last .*; last entry was 32; expected 1000: append it, or change max_batch_size$",
        ),
        (
            (
                "max_batch_size { value: 8 } allowed_batch_sizes: 4 allowed_batch_sizes: 2"
                " allowed_batch_sizes: 8"
            ),
            (
                r": allowed_batch_sizes entries must be positive and increasing; they were \[4, 2,"
                r" 8\]: sort them$"
            ),
        ),
        ("max_batch_size { value: 0 }", r": max_batch_size must be positive; was 0$"),
        (
            "batch_timeout_micros { value: -1 }",
            r": batch_timeout_micros must not be negative; was -1$",
        ),
        (
            SPLITTING + "max_execution_batch_size { value: 16 }",
            (
                r": max_execution_batch_size must not be above max_batch_size; was 16; expected at"
                r" most 8$"
            ),
        ),
        (
            SPLITTING + "max_execution_batch_size { value: 4 } allowed_batch_sizes: 8",
            (
                r": Last entry in allowed_batch_sizes must match max_execution_batch_size; last"
                r" entry was 8; expected 4"
            ),
        ),
    ],
)
def test_a_file_that_no_model_loads_with_is_refused_in_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "batching.config"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"^{path}{message}") as caught:
        batching.read(path)
    assert "\n" not in str(caught.value)
    assert path.read_text() == text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"/none: No such file or directory: expected a text BatchingParameters; name",
    ):
        batching.read(tmp_path / "none")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"max_batch": 3},
            r"^BatchingParameters has no field max_batch: expected one of max_batch_size, ",
        ),
        ({"max_batch_size": "many"}, r"^max_batch_size of BatchingParameters cannot be 'many': "),
        ({"allowed_batch_sizes": 8}, r"^allowed_batch_sizes of BatchingParameters cannot be 8: "),
        (
            {"allowed_batch_sizes": [8]},
            r"^BatchingParameters: Last entry in allowed_batch_sizes must match",
        ),
    ],
)
def test_make_refuses_what_read_would_refuse(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        batching.make(**fields)

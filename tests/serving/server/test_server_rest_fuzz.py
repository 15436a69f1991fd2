"""Very many bodies through the reading of JSON, against an oracle: refused with a status, or every
value is right.
"""

import base64
import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest

from serving.server import rest_inputs, rest_json
from serving.server.rest_json import dump_outputs
from serving.server.status import StatusError
from tests.serving.server.bodies import bodies, first_object

DTYPES = [
    tf.float32, tf.float64, tf.int32, tf.int8, tf.uint8, tf.int64, tf.uint32, tf.uint64,
    tf.bool, tf.string, tf.half,
]  # fmt: skip
QUIET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def assert_same(array, value, dtype):
    """Compares an array with the JSON value that it was made of, one number after the other."""
    if array.ndim:
        assert isinstance(value, list)
        assert len(value) == len(array)
        for each, inner in zip(array, value, strict=True):
            # As an object: an array of characters would lose the zeros at its end.
            assert_same(np.asarray(each, array.dtype), inner, dtype)
    elif dtype == tf.string:
        text = value["b64"] if isinstance(value, dict) else value
        # Padding may be left out, but not a part of it.
        padding = "=" * (-len(text) % 4) if "=" not in text else ""
        assert array.item() == (
            base64.b64decode(text + padding) if isinstance(value, dict) else text.encode()
        )
    elif dtype == tf.bool:
        assert isinstance(value, bool)
        assert array.item() is value
    elif dtype.is_integer:
        assert type(value) is int
        assert array.item() == value
    else:
        assert type(value) in (int, float)
        assert np.array_equal(array, np.float64(value).astype(dtype.as_numpy_dtype), equal_nan=True)


def check(body, dtypes):
    """Runs one body through everything that reads it."""
    try:
        document = rest_json.parse(body)
        arrays = rest_inputs.inputs(
            document, {name: dtype.as_datatype_enum for name, dtype in dtypes.items()}
        )
    except StatusError as error:
        assert error.code.name in ("INVALID_ARGUMENT", "UNIMPLEMENTED")
        # The server quotes a name as it is, and a value as JSON of several lines.
        assert "\n" not in re.split("JSON (?:Value|object)| key: ", error.message)[0]
        return
    assert set(arrays) == set(dtypes)
    said = first_object(body)
    if (
        "instances" in said
        and isinstance(said["instances"][0], dict)
        and "b64" not in said["instances"][0]
    ):
        assert all(row.keys() == dtypes.keys() for row in said["instances"])
    for name, array in arrays.items():
        assert array.dtype == dtypes[name].as_numpy_dtype
        if "instances" in said:
            column = [
                row[name] if isinstance(row, dict) and name in row else row
                for row in said["instances"]
            ]
        else:
            inputs = said["inputs"]
            column = inputs[name] if isinstance(inputs, dict) and name in inputs else inputs
        assert_same(array, column, dtypes[name])


def fuzz(number, derandomize):
    dtypes = st.dictionaries(
        st.sampled_from(["x", "y"]),
        st.one_of(st.just(tf.string), st.just(tf.float32), st.sampled_from(DTYPES)),
        min_size=1,
    )

    @settings(max_examples=number, derandomize=derandomize, **QUIET)
    @given(bodies(("x", "y")), dtypes)
    def run(body, dtypes):
        check(body, dtypes)

    run()


def test_no_body_crashes_the_reader_or_gets_wrong_values():
    fuzz(2000, derandomize=True)


@pytest.mark.long
def test_no_body_of_very_many_crashes_the_reader_or_gets_wrong_values():
    fuzz(100_000, derandomize=False)


@settings(max_examples=500, derandomize=True, **QUIET)
@given(bodies(("examples", "context")).map(lambda body: body.replace(b"instances", b"examples")))
def test_no_body_crashes_the_reader_of_examples(body):
    request = ClassificationRequest()
    try:
        rest_inputs.fill(rest_json.parse(body), request)
    except StatusError as error:
        assert error.code.name == "INVALID_ARGUMENT"
    else:
        assert request.input.WhichOneof("kind") is not None


@settings(max_examples=500, derandomize=True, **QUIET)
@given(st.lists(st.floats(width=32)), st.lists(st.floats()))
def test_floats_come_back_as_they_were_from_the_text(singles, doubles):
    for values in (np.array(singles, np.float32), np.array(doubles, np.float64)):
        text = dump_outputs({"y": values}, by_row=False)
        (found,) = first_object(text).values()
        assert all(isinstance(each, float) for each in found)
        assert np.array_equal(np.array(found, values.dtype), values, equal_nan=True)

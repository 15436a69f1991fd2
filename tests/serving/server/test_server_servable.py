import shutil
import time

import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from serving.server import tensors
from serving.server.servable import load
from serving.server.status import StatusError


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported / "half" / "1", tmp_path / "1")


def refusal(path, **options):
    with pytest.raises(StatusError) as error:
        load(1, str(path), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folder_without_saved_model_is_not_found(copy):
    (copy / "saved_model.pb").unlink()
    assert (
        refusal(copy)
        == "NOT_FOUND: Could not find SavedModel .pb or .pbtxt at supplied export directory path:"
        f" {copy}"
    )


def test_version_in_text_form_is_served(copy):
    graph = SavedModel.FromString((copy / "saved_model.pb").read_bytes())
    (copy / "saved_model.pbtxt").write_text(text_format.MessageToString(graph))
    (copy / "saved_model.pb").unlink()
    load(1, str(copy)).close()


def test_version_without_variables_index_is_refused_as_incomplete(copy):
    (copy / "variables" / "variables.index").unlink()
    assert refusal(copy).startswith(
        f"FAILED_PRECONDITION: {copy} is incomplete: variables/variables.index is missing. Copy the"
        " whole version"
    )


def test_version_without_variables_data_is_refused(copy):
    (copy / "variables" / "variables.data-00000-of-00001").unlink()
    assert "variables.data-00000-of-00001; No such file or directory" in refusal(copy)


def test_saved_model_that_is_rubbish_is_refused(copy):
    (copy / "saved_model.pb").write_bytes(b"rubbish")
    assert refusal(copy).startswith(f"UNKNOWN: {copy} cannot be loaded: Cannot parse file")


def test_metagraph_with_other_tags_is_refused(copy):
    assert "with available tags '[{'serve'}]'" in refusal(copy, tags=("gpu", "serve"))


def test_run_that_takes_too_long_ends_with_deadline_exceeded(exported):
    probe = load(1, f"{exported}/probe/1")
    wait = probe.signatures["wait"]
    feeds = {wait.inputs["x"].name: np.zeros(1, np.float32)}
    start = time.monotonic()
    with pytest.raises(StatusError, match="^DEADLINE_EXCEEDED: "):
        probe.run(feeds, [wait.outputs["x"].name], timeout_s=0.1)
    assert 0.1 <= time.monotonic() - start < 3
    probe.close()


def encoded(array, **options):
    proto = TensorProto()
    tensors.encode(array, proto, **options)
    return proto


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "complex64"]
)
def test_every_number_survives_the_way_out_and_back_in_typed_fields(dtype):
    array = np.array([[0, 1.5, 7]]).astype(dtype)
    proto = encoded(array)
    assert proto.tensor_content == b""
    back = tensors.decode("x", proto)
    assert (back.dtype, back.tolist()) == (array.dtype, array.tolist())


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "uint64", "bool", "complex128"]
)
def test_content_is_written_where_it_is_asked_for(dtype):
    array = np.array([[0, 1, 7]]).astype(dtype)
    proto = encoded(array, as_content=True)
    assert proto.tensor_content == array.tobytes()
    assert tensors.decode("x", proto).tolist() == array.tolist()
    assert list(encoded(np.array([b"a"], object), as_content=True).string_val) == [b"a"]


def test_strings_and_bools_use_their_fields():
    proto = encoded(np.array([b"a\x00", b""], dtype=object))
    assert list(proto.string_val) == [b"a\x00", b""]
    assert tensors.decode("x", proto).tolist() == [b"a\x00", b""]
    assert list(encoded(np.array([True, False])).bool_val) == [True, False]


@pytest.mark.parametrize(
    "text",
    [
        'dtype: DT_FLOAT tensor_shape { dim { size: -1 } } tensor_content: "abcd"',
        'dtype: DT_FLOAT tensor_shape { dim { size: 2 } } tensor_content: "abcd"',
        'dtype: DT_STRING tensor_shape { dim { size: 1 } } tensor_content: "a"',
        "dtype: DT_RESOURCE tensor_shape { dim { size: 1 } }",
        "dtype: DT_FLOAT tensor_shape { dim { size: 1125899906842624 } } float_val: 1",
        "tensor_shape { dim { size: 1 } } float_val: 1",
    ],
)
def test_tensor_that_does_not_fit_together_is_refused(text):
    with pytest.raises(StatusError, match="^INVALID_ARGUMENT: tensor parsing error: x$"):
        tensors.decode("x", text_format.Parse(text, TensorProto()))

"""TensorFlow Lite models as TensorFlow Serving's own test models are: without signatures, and with
signatures in their metadata.
"""

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
from flatbuffers import flexbuffers
from google.protobuf import text_format
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap

from serving.server.flags import Flags
from serving.server.loading import load
from serving.server.status import StatusError
from tests.serving.server.asking import request, running

v1 = tf.compat.v1
HALF = """
inputs {{ key: "x" value {{
    name: "{}" dtype: DT_FLOAT tensor_shape {{ dim {{ size: 1 }} dim {{ size: 1 }} }} }} }}
outputs {{ key: "y" value {{
    name: "{}" dtype: DT_FLOAT tensor_shape {{ dim {{ size: 1 }} dim {{ size: 1 }} }} }} }}
method_name: "tensorflow/serving/predict"
"""


def signature(text):
    return text_format.Parse(text, SignatureDef())


def convert(build, custom=False):
    """Converts a graph as TensorFlow 1 did, without signatures; `build` gives inputs and
    outputs.
    """
    with v1.Graph().as_default(), v1.Session() as session:
        converter = v1.lite.TFLiteConverter.from_session(session, *build())
        converter.allow_custom_ops = custom
        return converter.convert()


def half_plus_two(name="x"):
    x = v1.placeholder(tf.float32, [1, 1], name=name)
    return [x], [tf.add(x / 2, 2.0, name="y")]


def unpack(content):
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def pack(model):
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def recorded(content, **signatures):
    """Adds signatures, messages or rubbish, to the metadata."""
    values = flexbuffers.Builder()
    with values.Map():
        for name, one in signatures.items():
            serialized = one if isinstance(one, bytes) else one.SerializeToString()
            values.String(name, serialized.decode("ascii"))
    return with_metadata(content, bytes(values.Finish()))


def with_metadata(content, written):
    model = unpack(content)
    entry, buffer = schema.MetadataT(), schema.BufferT()
    buffer.data = np.frombuffer(written, np.uint8)
    entry.name, entry.buffer = "signature_defs_metadata", len(model.buffers)
    model.metadata = [*(model.metadata or []), entry]
    model.buffers.append(buffer)
    return pack(model)


@pytest.fixture
def loaded(tmp_path):
    """Loads a model's content; closed in the end."""
    models = []

    def from_content(content):
        (tmp_path / "model.tflite").write_bytes(content)
        models.append(load(1, str(tmp_path), Flags(prefer_tflite_model=True, num_tflite_pools=1)))
        return models[-1]

    yield from_content
    for model in models:
        model.close()


def answer(model, name, **values):
    chosen = model.signatures[name]
    feeds = {chosen.inputs[alias].name: value for alias, value in values.items()}
    outputs = model.run(feeds, [info.name for info in chosen.outputs.values()], None)
    return {alias: value.tolist() for alias, value in zip(chosen.outputs, outputs, strict=True)}


@pytest.fixture(scope="module", params=["plain", "recorded"])
def half(request, tmp_path_factory):
    """A server of half_plus_two, and the signature that it has."""
    root = tmp_path_factory.mktemp("half")
    content, expected = convert(half_plus_two), HALF.format("x", "y")
    if request.param == "recorded":
        # Its names are those of TensorFlow, which early converters did not keep.
        content = recorded(
            convert(lambda: half_plus_two("tflite_input")),
            serving_default=signature(HALF.format("tflite_input:0", "y:0")),
        )
        expected = HALF.format("tflite_input", "y")
    (root / "00000123").mkdir()
    (root / "00000123" / "model.tflite").write_bytes(content)
    with running(root, f"--model_base_path={root}", "--prefer_tflite_model") as server:
        yield server.client, signature(expected)


def test_signature_is_that_of_the_metadata_or_made_from_the_tensors(half):
    client, expected = half
    response = client.call(
        "PredictionService/GetModelMetadata",
        model_spec={"name": "default"},
        metadata_field=["signature_def"],
    )
    signatures = SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    assert dict(signatures.signature_def) == {"serving_default": expected}


def test_batches_of_any_size_are_answered_one_after_another(half):
    client, _ = half
    for values in ([1, 2, 3], [2], [[1], [3]], [], [2]):
        x = np.array(values, np.float32)
        response = client.predict(request("default", {"x": x}))
        assert response.model_spec.version.value == 123
        y = response.outputs["y"]
        assert list(y.float_val) == (x / 2 + 2).ravel().tolist()
        assert [one.size for one in y.tensor_shape.dim] == list(x.shape)
    assert client.http("/v1/models/default:predict", b'{"instances": [1.0, 2.0]}') == (
        200,
        {"predictions": [2.5, 3.0]},
    )


def test_each_signature_of_the_metadata_runs_the_graph(loaded):
    def build():
        x = v1.placeholder(tf.string, [None], name="x")
        return [x], [x, tf.shape(x, name="shape")]

    one = 'inputs {{ key: "in" value {{ name: "x:0" }} }} outputs {{ key: "{}" value {{ {} }} }}'
    model = loaded(
        recorded(
            convert(build),
            text=signature(one.format("out", 'name: "x"')),
            size=signature(one.format("rows", 'name: "shape:0"')),
        )
    )
    assert sorted(model.signatures) == ["size", "text"]
    words = np.array([b"a\x00b", b"", b"c"], object)
    assert answer(model, "text", **{"in": words}) == {"out": words.tolist()}
    assert answer(model, "size", **{"in": words[:2]}) == {"rows": [2]}
    # They say nothing of dtypes, as in the real server's test.
    for value in (np.ones(1), np.zeros((2**40, 0), object)):
        with pytest.raises(StatusError, match="^INVALID_ARGUMENT: Failed to set inputs. "):
            answer(model, "text", **{"in": value})
    assert answer(model, "size", **{"in": words[:2]}) == {"rows": [2]}


def test_outputs_of_one_operation_share_an_alias_and_the_last_has_it(loaded):
    # The real server cuts at the colon, too.
    def build():
        x = v1.placeholder(tf.float32, [2, 2], name="x")
        return [x], list(tf.split(x, 2, name="split"))

    model = loaded(convert(build))
    outputs = model.signatures["serving_default"].outputs
    assert {alias: info.name for alias, info in outputs.items()} == {"split": "split:1"}
    x = np.array([[1, 2], [3, 4]], np.float32)
    assert answer(model, "serving_default", x=x) == {"split": [[3.0, 4.0]]}


UNKNOWN = signature('inputs { key: "x" value { name: "z:0" } }')


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            lambda: recorded(convert(half_plus_two), a=UNKNOWN),
            "INTERNAL: Unknown tensor 'z:0'. Signature input x references an unknown tensor",
        ),
        (
            lambda: recorded(convert(half_plus_two), a=b"rubbish"),
            "INVALID_ARGUMENT: Invalid SignatureDefs found in TfLite model: Error parsing message",
        ),
        (
            lambda: with_metadata(convert(half_plus_two), b"\xff\xff\xff"),
            "INVALID_ARGUMENT: Invalid SignatureDefs found in TfLite model: ",
        ),
        (
            lambda: with_metadata(convert(half_plus_two), b""),
            "INVALID_ARGUMENT: Invalid SignatureDefs found in TfLite model: ",
        ),
    ],
    ids=["unknown", "rubbish", "map", "empty"],
)
def test_signatures_that_do_not_fit_are_refused_in_a_line(loaded, content, text):
    with pytest.raises(StatusError) as error:
        loaded(content())
    assert str(error.value).startswith(text)
    assert "\n" not in str(error.value)


def test_tensors_of_one_name_are_refused(loaded):
    def build():
        x, y = (v1.placeholder(tf.float32, [1], name=name) for name in "xy")
        return [x, y], [tf.add(x, y, name="sum")]

    model = unpack(convert(build))
    for tensor in model.subgraphs[0].tensors:
        tensor.name = "same"
    with pytest.raises(StatusError) as error:
        loaded(pack(model))
    assert str(error.value) == "ALREADY_EXISTS: Input tensor name: same has multiple indices"


def test_operation_that_tensorflow_lite_has_not_is_refused_in_a_line(loaded):
    # parse_example_tflite of TensorFlow Serving, which links a kernel for it.
    def build():
        examples = v1.placeholder(tf.string, [None], name="input")
        parsed = v1.parse_example(examples, {"x": tf.io.FixedLenFeature([1], tf.float32, [0.0])})
        return [examples], [parsed["x"]]

    with pytest.raises(StatusError) as error:
        loaded(convert(build, custom=True))
    assert str(error.value).startswith(
        "INVALID_ARGUMENT: Cannot build Interpreter from buffer. Encountered unresolved custom op:"
        " ParseExampleV2."
    )
    assert "\n" not in str(error.value)

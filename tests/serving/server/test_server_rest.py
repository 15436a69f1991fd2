"""REST to the letter, through the wire."""

import gzip
import http.client
import json
import re
import shutil

import pytest

from serving.server.flags import Flags
from serving.server.rest import RestApi
from tests.serving.server.asking import wait_until, write_config

TIMEOUT_S = 30
HALF = "/v1/models/half:predict"
ONE = b'{"instances": [[1.0]]}'


@pytest.fixture(scope="module")
def models(exported, tmp_path_factory):
    """The models of the other tests, and `examples`, which classifies and regresses."""
    import tensorflow as tf

    class Examples(tf.Module):
        def read(self, inputs):
            spec = {
                "x": tf.io.FixedLenFeature([1], tf.float32),
                "add": tf.io.FixedLenFeature([1], tf.float32, [0.0]),
            }
            parsed = tf.io.parse_example(inputs, spec)
            return parsed["x"] + parsed["add"]

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def classify(self, inputs):
            x = self.read(inputs)
            names = tf.constant([["low", "high"]])
            return {
                "classes": tf.tile(names, [tf.shape(x)[0], 1]),
                "scores": tf.concat([1 - x, x], axis=1),
            }

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def regress(self, inputs):
            return {"outputs": self.read(inputs) / 2 + 2}

    root = tmp_path_factory.mktemp("models")
    shutil.copytree(exported, root, dirs_exist_ok=True)
    module = Examples()
    signatures = {"serving_default": module.classify, "regress": module.regress}
    tf.saved_model.save(module, str(root / "examples" / "1"), signatures=signatures)
    write_config(root)
    config = root / "models.config"
    more = (
        f'config {{ name: "examples" base_path: "{root}/examples" model_platform: "tensorflow" }}'
    )
    config.write_text(config.read_text().rstrip().removesuffix("}") + more + "}")
    return root


@pytest.fixture(scope="module")
def more_flags():
    return ["--rest_api_enable_cors_support"]


@pytest.fixture
def ask(client):
    """Sends one request; gives the code, the headers and the body."""

    def send(path, body=None, method=None, **headers):
        connection = http.client.HTTPConnection(
            client.rest.removeprefix("http://"), timeout=TIMEOUT_S
        )
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if body is None else "POST"), path, body, named)
        response = connection.getresponse()
        answer = response.status, response.headers, response.read()
        connection.close()
        return answer

    return send


@pytest.mark.parametrize(
    ("body", "numbers"),
    [
        (b'{"instances": [[17999994.0], [0.2], [-6]]}', b"[[9e+06],[3.1],[0.0]]"),
        (
            b'{"instances": [[0.333333333], [NaN], [-Infinity]]}',
            b"[[3.16666675],[NaN],[-Infinity]]",
        ),
        (b'{"inputs": [1.0, 4]}', b"[3.5,5.0]"),
        (b'{"inputs": 4}', b"5.0"),
        (b'{"inputs": {"x": [[1]], "y": "is ignored"}}  and this too', b"[[3.5]]"),
    ],
)
def test_numbers_are_written_in_the_digits_of_the_real_server(ask, body, numbers):
    code, headers, answer = ask(HALF, body, Content_Type="text/plain")
    assert (code, headers["Content-Type"]) == (200, "application/json")
    assert re.sub(rb"\s", b"", answer).split(b":")[1] == numbers + b"}"


@pytest.mark.parametrize(
    ("path", "body", "code", "text"),
    [
        (
            "/v1/models/half/labels/none:predict",
            ONE,
            400,
            "Unrecognized servable version label: none",
        ),
        (
            "/v1/models/half/labels/no%20ne:predict",
            ONE,
            400,
            "Unrecognized servable version label: no ne",
        ),
        (
            "/v1/models/half/versions/7:predict",
            ONE,
            404,
            "Servable not found for request: Specific(half, 7)",
        ),
        (
            "/v1/models/half/versions/x:predict",
            ONE,
            400,
            "Malformed request: POST /v1/models/half/versions/x:predict",
        ),
        ("/v1/models/half:PREDICT", ONE, 400, "Malformed request: POST /v1/models/half:PREDICT"),
        (
            "/v1/models/half:predict?x=1",
            ONE,
            400,
            "Malformed request: POST /v1/models/half:predict?x=1",
        ),
        ("/v1/models/half?x=1", None, 404, "Could not find any versions of model half?x=1"),
        ("/v1/models/half/versions/9", None, 404, "Could not find version 9 of model half"),
        (
            f"/v1/models/half/versions/{'9' * 5000}",
            None,
            400,
            f"Failed to convert version: {'9' * 5000} to numeric.",
        ),
        ("/v1/models/versions/1", None, 400, "Missing model name in request."),
        ("/v1/models/none/metadata", None, 404, "Servable not found for request: Latest(none)"),
        (
            "/v1/models/none:classify",
            b'{"examples": [{}]}',
            404,
            "Servable not found for request: Latest(none)",
        ),
        (HALF, b'{"inputs": {"y": 1}}', 400, "Missing named input: x in 'inputs' object."),
        (
            HALF,
            b'{"instances": [1',
            400,
            "JSON Parse error: Missing a comma or ] after an array element. at offset: 16",
        ),
        (
            "/v1/models/examples:regress",
            b"{}",
            400,
            "JSON Value: {} When method is classify, key 'examples' is expected and was not found",
        ),
        (
            "/v1/models/examples:regress",
            b'{"signature_name": "none", "examples": [{"x": 0.5}]}',
            400,
            "No signature was found with the name: none",
        ),
    ],
)
def test_refusal_has_the_code_and_the_text_of_the_real_server(ask, path, body, code, text):
    answered, headers, answer = ask(path, body)
    assert (answered, json.loads(answer)) == (code, {"error": text})
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_other_method_is_malformed(ask, method):
    code, _, answer = ask("/v1/models/half", b"{}", method)
    assert (code, json.loads(answer)) == (
        400,
        {"error": f"Malformed request: {method} /v1/models/half"},
    )


def test_head_is_malformed_and_has_no_body(ask):
    code, headers, answer = ask("/v1/models/half", method="HEAD")
    assert (code, answer) == (400, b"")
    assert int(headers["Content-Length"]) > 0


def test_examples_are_classified_and_regressed(ask):
    body = b'{"context": {"add": 0.25}, "examples": [{"x": 0.5}, {"x": [0.0]}]}'
    code, _, answer = ask("/v1/models/examples:classify", body)
    assert (code, json.loads(answer)) == (
        200,
        {"results": [[["low", 0.25], ["high", 0.75]], [["low", 0.75], ["high", 0.25]]]},
    )
    body = b'{"signature_name": "regress", "examples": [{"x": 1.0}, {"x": -4.0}]}'
    code, _, answer = ask("/v1/models/examples/versions/1:regress", body)
    assert (code, json.loads(answer)) == (200, {"results": [2.5, 0.0]})
    code, _, answer = ask(
        "/v1/models/examples:regress", b'{"signature_name": "regress", "examples": [{"y": 1.0}]}'
    )
    assert code == 400
    assert (
        "Feature: x (data type: float) is required but could not be found."
        in json.loads(answer)["error"]
    )


def test_metadata_has_every_field(ask):
    code, _, answer = ask("/v1/models/half/versions/1/metadata")
    metadata = json.loads(answer)
    assert code == 200
    assert metadata["model_spec"] == {"name": "half", "signature_name": "", "version": "1"}
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    default = signatures["serving_default"]
    assert set(default) == {"inputs", "outputs", "method_name", "defaults"}
    assert (default["method_name"], default["defaults"]) == ("tensorflow/serving/predict", {})
    dimensions = [{"size": "-1", "name": ""}, {"size": "1", "name": ""}]
    assert default["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert default["inputs"]["x"]["tensor_shape"] == {"dim": dimensions, "unknown_rank": False}
    labelled = json.loads(ask("/v1/models/half/labels/stable/metadata")[2])
    assert labelled == metadata


def test_gzipped_body_is_inflated(ask):
    assert ask(HALF, gzip.compress(ONE), Content_Encoding="gzip")[::2] == (
        200,
        b'{"predictions": [[3.5]]}',
    )
    # By the header alone.
    assert ask(HALF, ONE, Content_Encoding="identity")[0] == 200


@pytest.mark.parametrize(
    "body",
    [ONE, gzip.compress(ONE)[:-1], gzip.compress(ONE + b" " * 10 * 2**20)],
    ids=["plain", "cut", "bomb"],
)
def test_body_that_cannot_be_inflated_counts_as_empty(ask, body):
    code, _, answer = ask(HALF, body, Content_Encoding="gzip")
    assert (code, json.loads(answer)) == (400, {"error": "JSON Parse error: The document is empty"})


def test_pages_of_other_origins_may_ask_where_the_flag_says_so(ask):
    expected = {"Origin": "*", "Methods": "POST, GET", "Headers": "Content-Type"}
    for path, body, method, code in (
        (HALF, ONE, None, 200),
        (HALF, b"", None, 400),
        (HALF, None, "OPTIONS", 200),
    ):
        answered, headers, _ = ask(path, body, method, Origin="https://example.com")
        assert answered == code
        assert {name: headers[f"Access-Control-Allow-{name}"] for name in expected} == expected
    assert ask(HALF, None, "OPTIONS")[::2] == (400, b"")
    assert ask(HALF, None, "OPTIONS", Origin="file://x")[::2] == (400, b"")


def test_pages_of_other_origins_may_not_ask_without_the_flag():
    said = []
    environ = {
        "REQUEST_METHOD": "OPTIONS",
        "REQUEST_URI": HALF,
        "HTTP_ORIGIN": "https://example.com",
    }
    body = RestApi(None, Flags())(environ, lambda *arguments: said.append(arguments))
    assert (said, body) == ([("200 OK", [("Content-Length", "0")])], [b""])


def test_every_model_is_listed(ask):
    code, _, answer = ask("/v1/models")
    ok = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert (code, json.loads(answer)) == (
        200,
        {
            "models": [
                {"name": "examples", "model_version_status": [{"version": "1", **ok}]},
                {
                    "name": "half",
                    "model_version_status": [{"version": "2", **ok}, {"version": "1", **ok}],
                },
                {"name": "probe", "model_version_status": [{"version": "1", **ok}]},
            ]
        },
    )


def test_server_without_the_flag_has_no_page(ask):
    assert ask("/")[0] == 404
    assert ask("/favicon.ico")[0] == 404


def test_health_and_readiness_say_which_model_is_missing(ask, models):
    assert ask("/healthz")[::2] == (200, b'{"status": "ok"}')
    assert ask("/readyz")[::2] == (200, b'{"status": "ok"}')
    config = models / "models.config"
    more = f'config {{ name: "later" base_path: "{models}/later" model_platform: "tensorflow" }}'
    config.write_text(config.read_text().rstrip().removesuffix("}") + more + "}")
    wait_until(lambda: ask("/readyz")[0] == 503)
    assert json.loads(ask("/readyz")[2]) == {"error": "No version is available of model(s): later"}
    assert ask("/healthz")[0] == 200
    assert {"name": "later", "model_version_status": []} in json.loads(ask("/v1/models")[2])[
        "models"
    ]

"""A real server process, asked over gRPC and REST. The tests run in order: the last one stops the
server.
"""

import json
import shutil
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

from tests.serving.server.asking import refusal, request, wait_until, write_config


def test_newest_version_answers_in_the_typed_field_and_says_which_it_is(client):
    response = client.predict(request("half", {"x": np.array([[1], [4]], np.float32)}))
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("half", 2, "serving_default")
    assert list(response.outputs["y"].float_val) == [3.5, 5.0]
    assert [dim.size for dim in response.outputs["y"].tensor_shape.dim] == [2, 1]
    assert response.outputs["y"].tensor_content == b""


def test_version_and_label_select(client):
    one = {"x": np.array([[2]], np.float32)}
    assert client.predict(request("half", one, version={"value": 1})).outputs["y"].float_val == [
        3.0
    ]
    assert client.predict(request("half", one, version_label="stable")).outputs["y"].float_val == [
        3.0
    ]
    assert client.predict(request("half", one, version={"value": 2})).outputs["y"].float_val == [
        4.0
    ]


@pytest.mark.parametrize("shape", [(1,), (2, 3), ()])
def test_any_shape_that_the_graph_can_compute_is_accepted(client, shape):
    response = client.predict(request("half", {"x": np.full(shape, 2, np.float32)}))
    assert set(response.outputs["y"].float_val) == {4.0}
    assert tuple(dim.size for dim in response.outputs["y"].tensor_shape.dim) == shape


def test_every_type_goes_through_and_output_filter_chooses(client):
    inputs = {
        "f": np.array([1.5, -2], np.float32),
        "i": np.array([2**40, -1]),
        "b": [True, False],
        "s": [b"\x00\xff", b""],
    }
    outputs = client.predict(request("probe", inputs, "echo")).outputs
    assert sorted(outputs) == ["b", "f", "i", "s", "s_bytes"]
    assert list(outputs["f"].float_val) == [1.5, -2]
    assert list(outputs["i"].int64_val) == [2**40, -1]
    assert list(outputs["b"].bool_val) == [True, False]
    assert list(outputs["s"].string_val) == [b"\x00\xff", b""]
    filtered = request("probe", inputs, "echo")
    filtered.output_filter.extend(["s", "f"])
    assert sorted(client.predict(filtered).outputs) == ["f", "s"]


def test_message_above_the_default_limit_of_grpc_goes_both_ways(client):
    large = np.arange(1_500_000, dtype=np.float32)
    response = client.predict(request("half", {"x": large}))
    assert np.array_equal(np.array(response.outputs["y"].float_val, np.float32), large / 2 + 3)


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (request("", {}), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (request("none", {}), "NOT_FOUND", "Servable not found for request: Latest(none)"),
        (
            request("half", {}, version={"value": 7}),
            "NOT_FOUND",
            "Servable not found for request: Specific(half, 7)",
        ),
        (
            request("half", {}, version_label="gold"),
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: gold",
        ),
        (
            request("half", {}, "other"),
            "FAILED_PRECONDITION",
            'Serving signature key "other" not found.',
        ),
        (
            request("half", {}),
            "INVALID_ARGUMENT",
            (
                "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}."
                " Missing but required: {x}."
            ),
        ),
        (
            request("half", {"x": [1.0], "z": [1.0]}),
            "INVALID_ARGUMENT",
            (
                "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}."
                " Missing but required: {}."
            ),
        ),
        (
            request("half", {"z": [1.0]}),
            "INVALID_ARGUMENT",
            (
                "Signature input alias: x(feed name: serving_default_x:0) not found in request and"
                " no default value provided. Inputs expected to be in the request {z}, or default"
                " input alias set: "
            ),
        ),
        (
            request("half", {"x": np.array([1.0])}),
            "INVALID_ARGUMENT",
            "Expects arg[0] to be float but double is provided",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_predict_is_refused_with_the_text_of_the_real_server(client, message, code, text):
    assert refusal(client.predict, message) == (code, text)


def test_bad_output_filters_are_refused(client):
    message = request("half", {"x": [1.0]})
    message.output_filter.append("z")
    text = "output tensor alias not found in signature: z Outputs expected to be in the set {y}."
    assert refusal(client.predict, message) == ("INVALID_ARGUMENT", text)
    message.output_filter[:] = ["y", "y"]
    assert refusal(client.predict, message) == (
        "INVALID_ARGUMENT",
        "duplicate output tensor alias: y",
    )


def test_tensor_that_does_not_fit_together_is_refused(client):
    message = request("half", {"x": np.zeros((2, 2), np.float32)})
    message.inputs["x"].tensor_content = b"abc"
    assert refusal(client.predict, message) == ("INVALID_ARGUMENT", "tensor parsing error: x")


def test_failure_inside_the_graph_has_the_text_of_the_core(client):
    message = request(
        "probe", {"left": np.zeros(2, np.float32), "right": np.zeros(3, np.float32)}, "add"
    )
    code, text = refusal(client.predict, message)
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("Incompatible shapes: [2] vs. [3]\n\t [[")


def test_long_message_is_cut(client):
    code, text = refusal(client.predict, request("n" * 5000, {}))
    assert code == "NOT_FOUND"
    assert (
        text
        == "Servable not found for request: Latest(nnn"[:1024].ljust(1024, "n") + "...TRUNCATED"
    )


def test_deadline_of_the_client_ends_the_run(client):
    code, _ = refusal(
        client.predict, request("probe", {"x": np.zeros(1, np.float32)}, "wait"), timeout_s=0.3
    )
    assert code == "DEADLINE_EXCEEDED"


def test_method_that_is_not_served_is_unimplemented(client, server):
    nothing = client.channel.unary_unary("/tensorflow.serving.SessionService/SessionRun")
    assert refusal(nothing, b"", timeout=10)[0] == "UNIMPLEMENTED"
    assert "Traceback" not in server.log.read_text()


def test_status_of_all_versions_and_of_one(client):
    assert client.states("half") == {2: "AVAILABLE", 1: "AVAILABLE"}
    one = get_model_status_pb2.GetModelStatusRequest(
        model_spec={"name": "half", "version": {"value": 1}}
    )
    (only,) = client.status(one).model_version_status
    assert (only.version, only.status.error_code, only.status.error_message) == (1, 0, "")
    by_label = get_model_status_pb2.GetModelStatusRequest(
        model_spec={"name": "half", "version_label": "stable"}
    )
    assert len(client.status(by_label).model_version_status) == 2


def test_status_of_nothing_is_refused(client):
    empty = get_model_status_pb2.GetModelStatusRequest()
    assert refusal(client.status, empty) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    for spec, text in (
        ({"name": "none"}, "Could not find any versions of model none"),
        ({"name": "half", "version": {"value": 9}}, "Could not find version 9 of model half"),
        ({}, "Could not find any versions of model "),
    ):
        message = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        assert refusal(client.status, message) == ("NOT_FOUND", text)


def test_rest_predicts_by_row_and_by_column(client):
    path = "/v1/models/half:predict"
    assert client.http(path, b'{"instances": [[1.0], [4]]}') == (
        200,
        {"predictions": [[3.5], [5.0]]},
    )
    assert client.http(path, b'{"inputs": {"x": [[1.0]]}}') == (200, {"outputs": [[3.5]]})
    assert client.http("/v1/models/half/versions/1:predict", b'{"instances": [2]}') == (
        200,
        {"predictions": [3.0]},
    )
    assert client.http("/V1/Models/half/labels/stable:predict", b'{"instances": [2]}')[1] == {
        "predictions": [3.0]
    }


def test_rest_carries_every_type(client):
    row = {"f": 0.1, "i": 2**40, "b": True, "s": {"b64": "4pyT"}}
    body = json.dumps({"signature_name": "echo", "instances": [row, {**row, "s": "x"}]}).encode()
    code, answer = client.http("/v1/models/probe:predict", body)
    assert code == 200
    rest = {"b": True, "f": 0.1, "i": 2**40}
    assert answer["predictions"] == [
        {**rest, "s": "\u2713", "s_bytes": {"b64": "4pyT"}},
        {**rest, "s": "x", "s_bytes": {"b64": "eA=="}},
    ]


def test_rest_status(client):
    ok = {"error_code": "OK", "error_message": ""}
    one = {"version": "1", "state": "AVAILABLE", "status": ok}
    assert client.http("/v1/models/half/versions/1") == (200, {"model_version_status": [one]})
    both = client.http("/v1/models/half")[1]["model_version_status"]
    assert both == [{**one, "version": "2"}, one]


@pytest.mark.parametrize(
    ("path", "body", "code", "text"),
    [
        ("/v1/models/none", None, 404, "Could not find any versions of model none"),
        ("/v1/models/no%20ne", None, 404, "Could not find any versions of model no ne"),
        ("/v1/foo", b"{}", 400, "Malformed request: POST /v1/foo"),
        ("/v1/models/half:predict", None, 400, "Malformed request: GET /v1/models/half:predict"),
        (
            "/v1/models/half/versions/9223372036854775808:predict",
            b"{}",
            400,
            "Failed to convert version: 9223372036854775808 to numeric.",
        ),
        ("/v1/models/half:predict", b"", 400, "JSON Parse error: The document is empty"),
        (
            "/v1/models/none:predict",
            b'{"instances": [1]}',
            404,
            "Servable not found for request: Latest(none)",
        ),
        (
            "/v1/models/half:predict",
            b'{"signature_name": "other", "instances": [1]}',
            400,
            'Serving signature name: "other" not found in signature def',
        ),
    ],
)
def test_rest_refuses_with_code_and_error_object(client, path, body, code, text):
    assert client.http(path, body) == (code, {"error": text})


def test_rest_methods_other_than_get_and_post_are_malformed(client):
    assert client.http("/v1/models/half", b"{}", "PUT") == (
        400,
        {"error": "Malformed request: PUT /v1/models/half"},
    )


def test_rest_outside_of_v1_is_an_html_404(server):
    address = server.client.rest.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=10) as connection:
        connection.sendall(b"GET /elsewhere HTTP/1.0\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.0 404 Not Found\r\n")
    assert b"text/html" in answer


def test_rest_run_that_takes_too_long_is_a_504(client):
    body = b'{"signature_name": "wait", "instances": [1]}'
    code, answer = client.http("/v1/models/probe:predict", body)
    assert code == 504
    assert list(answer) == ["error"]


def test_new_version_is_served_without_a_gap_and_a_broken_one_never(client, exported, models):
    one = request("half", {"x": np.array([2], np.float32)})
    shutil.copytree(exported / "half" / "1", models / "half" / "tmp-4")
    (models / "half" / "tmp-4" / "variables" / "variables.index").unlink()
    (models / "half" / "tmp-4").rename(models / "half" / "4")
    shutil.copytree(exported / "half" / "1", models / "half" / "tmp-3")
    (models / "half" / "tmp-3").rename(models / "half" / "3")
    served = set()

    def arrived():
        served.add(client.predict(one).model_spec.version.value)
        states = client.states("half")
        return states.get(4) == "END" and states.get(3) == "AVAILABLE"

    wait_until(arrived)
    assert client.predict(one).model_spec.version.value == 3
    assert served <= {2, 3}
    status = client.http("/v1/models/half/versions/4")[1]["model_version_status"][0]["status"]
    assert status["error_code"] == "FAILED_PRECONDITION"
    assert "variables.index is missing" in status["error_message"]


def test_config_file_is_watched(client, models):
    one = request("half", {"x": np.array([2], np.float32)}, version_label="next")
    assert refusal(client.predict, one) == (
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: next",
    )
    write_config(models, 'version_labels { key: "next" value: 2 }')

    def known():
        try:
            return client.predict(one).model_spec.version.value == 2
        except grpc.RpcError as error:
            assert error.details() == "Unrecognized servable version label: next"
            return False

    wait_until(known)


def test_sigterm_lets_the_requests_under_way_finish_and_ends_with_0(server, client):
    one = np.ones(1, np.float32)

    def arrived():
        return client.predict(request("probe", {"x": one}, "arrived")).outputs["count"].float_val[0]

    before = arrived()
    with ThreadPoolExecutor(1) as thread:
        body = b'{"signature_name": "wait", "instances": [1]}'
        over_rest = thread.submit(client.http, "/v1/models/probe:predict", body)
        over_grpc = client.predict_soon(request("probe", {"x": one}, "wait"))
        wait_until(lambda: arrived() == before + 2)
        release = client.predict_soon(request("probe", {"seconds": 2 * one}, "release"))
        wait_until(lambda: arrived() == before + 3)
        server.send_signal(signal.SIGTERM)
        assert list(over_grpc.result(20).outputs["x"].float_val) == [1.0]
        assert list(release.result(20).outputs["seconds"].float_val) == [2.0]
        assert over_rest.result(20) == (200, {"predictions": [1.0]})
    assert server.wait(20) == 0
    log = server.log.read_text()
    assert "Running gRPC ModelServer at 127.0.0.1:" in log
    assert "Exporting HTTP/REST API at:127.0.0.1:" in log
    assert "Traceback" not in log

"""The log of requests: what a line says, files that are renamed, and disks that fail."""

import json
import os
import threading

import numpy as np
import pytest
from tensorflow_serving.apis import predict_pb2

from serving.server.request_log import RequestLog
from tests.serving.server.asking import refusal, request, running, wait_until


@pytest.fixture(scope="module")
def logged(models, tmp_path_factory):
    """A server that writes down its requests; gives its process with `client` and `requests`."""
    scratch = tmp_path_factory.mktemp("logged")
    with running(
        scratch,
        f"--model_config_file={models}/models.config",
        "--allow_version_labels_for_unavailable_models",
        f"--request_log_file={scratch}/requests.jsonl",
        "--enable_batching",
    ) as it:
        it.requests = scratch / "requests.jsonl"
        yield it


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def newest(server, count):
    wait_until(lambda: len(lines(server.requests)) >= count)
    return lines(server.requests)[-1]


def test_line_says_what_was_asked_and_how_long_it_took(logged):
    known = len(lines(logged.requests))
    logged.client.predict(request("half", {"x": np.ones((3, 1), np.float32)}))
    line = newest(logged, known + 1)
    times = {name: line.pop(name) for name in ("total_ms", "queued_ms", "executing_ms")}
    assert line.pop("time").startswith("20")
    assert line == {
        "protocol": "GRPC",
        "method": "Predict",
        "model": "half",
        "version": 2,
        "signature": "serving_default",
        "rows": 3,
        "status": "OK",
    }
    assert 0 <= times["queued_ms"] + times["executing_ms"] <= times["total_ms"] < 20_000


def test_failures_rest_and_several_tasks_are_written_down_too(logged):
    known = len(lines(logged.requests))
    refusal(logged.client.predict, predict_pb2.PredictRequest(model_spec={"name": "none\n"}))
    line = newest(logged, known + 1)
    assert (line["model"], line["status"], line["version"]) == ("none\n", "NOT_FOUND", None)
    assert line["executing_ms"] is None
    logged.client.http("/v1/models/half/versions/1:predict", b'{"instances": [[1.0], [2.0]]}')
    line = newest(logged, known + 2)
    assert [line[name] for name in ("protocol", "version", "rows")] == ["REST", 1, 2]
    refusal(logged.client.call, "PredictionService/MultiInference", tasks=[])
    assert newest(logged, known + 3)["method"] == "MultiInference"


def test_renamed_file_is_made_anew(logged):
    logged.client.predict(request("half", {"x": np.ones((1, 1), np.float32)}))
    newest(logged, 1)
    logged.requests.rename(logged.requests.with_suffix(".1"))
    logged.send_signal(1)
    logged.client.predict(request("half", {"x": np.ones((5, 1), np.float32)}))
    assert newest(logged, 1)["rows"] == 5


def test_file_that_cannot_be_written_is_one_line_and_lost_lines_are_counted(tmp_path, caplog):
    log = RequestLog(str(tmp_path / "folder" / "log"))
    for number in range(5):
        log.add(0, {"number": number})
        wait_until(lambda: log._lost > number)  # noqa: B023 - evaluated at once
    assert caplog.text.count("No such file or directory") == 1
    (tmp_path / "folder").mkdir()
    log.add(0, {"number": 5})
    log.close()
    assert lines(tmp_path / "folder" / "log") == [
        {"time": "1970-01-01T00:00:00.000000Z", "number": 5}
    ]
    assert "5 lines were lost" in caplog.text


def test_full_disk_is_one_line_and_no_request_waits_for_it(caplog):
    log = RequestLog("/dev/full")
    for number in range(100):
        log.add(0, {"number": number})
    log.close()
    assert caplog.text.count("No space left") == 1
    assert "serving continues" in caplog.text


def test_pipe_that_nobody_reads_stops_nothing(tmp_path, caplog):
    os.mkfifo(tmp_path / "log")
    log = RequestLog(str(tmp_path / "log"))
    log.add(0, {"number": 1})
    closing = threading.Thread(target=log.close, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
    assert "serving continues" in caplog.text

import json
import os
import threading

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import predict_pb2

from serving.server.metrics import Metrics, RequestLog
from serving.server.status import StatusError, invalid_argument
from tests.serving.server.asking import refusal, request, running, wait_until


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def metrics(clock):
    return Metrics(clock)


def ask(metrics, clock, seconds, model="m", error=None):
    with metrics.request("GRPC", model, "Predict"):
        with metrics.run():
            clock.now += seconds
        if error:
            raise error


def test_page_has_type_lines_counters_and_cumulative_buckets_as_the_real_server_writes_them(
    metrics, clock
):
    for microseconds in (5, 10, 20, 10**12):
        ask(metrics, clock, microseconds / 1e6)
    lines = metrics.page().splitlines()
    assert lines[:2] == [
        "# TYPE :tensorflow:serving:request_count counter",
        ':tensorflow:serving:request_count{model_name="m",status="OK"} 4',
    ]
    labels = '{model_name="m",API="Predict",entrypoint="GRPC"'
    latency = [line for line in lines if line.startswith(":tensorflow:serving:request_latency")]
    assert latency[:4] == [
        f':tensorflow:serving:request_latency_bucket{labels},le="10"}} 1',
        f':tensorflow:serving:request_latency_bucket{labels},le="18"}} 2',
        f':tensorflow:serving:request_latency_bucket{labels},le="32.4"}} 3',
        f':tensorflow:serving:request_latency_bucket{labels},le="58.32"}} 3',
    ]
    assert latency[33:] == [
        f':tensorflow:serving:request_latency_bucket{labels},le="+Inf"}} 4',
        f":tensorflow:serving:request_latency_sum{labels}}} 1e+12",
        f":tensorflow:serving:request_latency_count{labels}}} 4",
    ]
    assert (
        ':tensorflow:serving:runtime_latency_count{model_name="m",API="Predict",runtime="TF1"} 4'
        in lines
    )


def test_value_on_a_bound_belongs_to_the_next_bucket(metrics):
    bucket = ':tensorflow:serving:batching_session:queuing_latency_bucket{thread_pool_name="pool"'
    metrics.observe("batching_session/queuing_latency", 1e-4, "pool")
    lines = metrics.page().splitlines()
    assert lines[1] == f'{bucket},le="100"}} 0'
    assert lines[2] == f'{bucket},le="120"}} 1'


def test_failed_requests_are_counted_by_code_and_have_no_latency(metrics, clock):
    with pytest.raises(StatusError):
        ask(metrics, clock, 1, error=invalid_argument("no"))
    with pytest.raises(ZeroDivisionError):
        ask(metrics, clock, 1, error=ZeroDivisionError())
    page = metrics.page()
    assert 'request_count{model_name="m",status="INVALID_ARGUMENT"} 1' in page
    assert 'request_count{model_name="m",status="UNKNOWN"} 1' in page
    assert "request_latency" not in page
    assert metrics.total("/tensorflow/serving/request_count") == 2
    assert metrics.total("/tensorflow/serving/none") == 0


def test_run_outside_of_a_request_is_not_counted(metrics):
    with metrics.run():
        pass
    assert metrics.page() == ""


def test_labels_are_escaped(metrics):
    metrics.count("request_count", 'a"\\\n', grpc.StatusCode.OK.name)
    assert (
        metrics.page().splitlines()[1]
        == r':tensorflow:serving:request_count{model_name="a\"\\\n",status="OK"} 1'
    )


def test_names_that_clients_invent_do_not_grow_the_page_for_ever(metrics):
    for number in range(5000):
        metrics.count("request_count", f"name{number}", "NOT_FOUND")
    assert len(metrics.page().splitlines()) <= 1002
    assert 'model_name="",status="NOT_FOUND"} 4000' in metrics.page()


def test_names_that_clients_make_up_are_bounded_in_number_and_length(metrics, clock):
    for number in range(40):
        ask(metrics, clock, 0.001, model=f"{number}" + "x" * 1_000_000)
    for number in range(3000):
        ask(metrics, clock, 0.001, model=f"{number}")
    page = metrics.page()
    size, kept = len(page), "xxx" in page
    assert size < 20_000_000
    assert not kept
    assert ':tensorflow:serving:request_count{model_name="",status="OK"} 2041' in page


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

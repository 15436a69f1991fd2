import grpc
import pytest

from serving.server.metrics import Metrics
from serving.server.status import StatusError, invalid_argument


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

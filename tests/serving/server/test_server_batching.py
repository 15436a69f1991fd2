import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from serving.server import grpc_service, loading
from serving.server.batching import Parameters, Scheduler, read_parameters
from serving.server.discovery import single_model
from serving.server.flags import Flags
from serving.server.handlers import Handlers
from serving.server.manager import Manager
from serving.server.metrics import Metrics
from serving.server.status import StatusError
from tests.serving.server.asking import Client, request

FOR_EVER_S = 1000.0
JOIN_S = 20.0


class Model:
    """Doubles its input; notes the inputs of every run, and waits in it while `gate` is closed."""

    def __init__(self):
        self.runs = []
        self.limits = []
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Semaphore(0)

    def __call__(self, inputs, timeout_s):
        self.runs.append(inputs["x"].tolist())
        self.limits.append(timeout_s)
        self.running.release()
        assert self.gate.wait(JOIN_S)
        return {"y": inputs["x"] * 2}


def scheduler(**parameters):
    return Scheduler(
        Parameters(**{"num_batch_threads": 1, "batch_timeout_s": FOR_EVER_S, **parameters})
    )


def run(one, model, values, key="k", timeout_s=None):
    return one.run(key, model, {"x": np.array(values, np.float32)}, timeout_s)["y"].tolist()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(40) as threads:
        yield threads


def held_up(one, model, pool, rows=None):
    """Occupies the only batch thread until the gate opens, so that what follows queues up."""
    model.gate.clear()
    full = pool.submit(run, one, model, [0.0] * (rows or one._parameters.max_batch_size))
    assert model.running.acquire(timeout=JOIN_S)
    return full


def test_concurrent_requests_share_one_run_and_each_gets_its_rows(pool):
    model, one = Model(), scheduler(max_batch_size=6)
    answers = [pool.submit(run, one, model, [float(n)] * n) for n in (1, 2, 3)]
    assert [answer.result(JOIN_S) for answer in answers] == [[2.0], [4.0, 4.0], [6.0, 6.0, 6.0]]
    assert [sorted(values) for values in model.runs] == [[1, 2, 2, 3, 3, 3]]


def test_lone_request_runs_when_the_timeout_is_over_without_company(pool):
    model, one = Model(), scheduler(batch_timeout_s=0.05)
    assert pool.submit(run, one, model, [3.0]).result(JOIN_S) == [6.0]


def test_different_keys_never_share_a_run(pool):
    model, one = Model(), scheduler(max_batch_size=2)
    answers = [pool.submit(run, one, model, [float(n)], key=n % 2) for n in range(4)]
    assert [answer.result(JOIN_S) for answer in answers] == [[0.0], [2.0], [4.0], [6.0]]
    assert sorted(sorted(values) for values in model.runs) == [[0, 2], [1, 3]]


def test_batch_is_padded_to_an_allowed_size_with_the_first_row_of_the_last_task(pool):
    model, one = (
        Model(),
        scheduler(max_batch_size=8, allowed_batch_sizes=(2, 4, 8), batch_timeout_s=0),
    )
    assert run(one, model, [5.0, 6.0, 7.0]) == [10.0, 12.0, 14.0]
    assert model.runs == [[5, 6, 7, 5]]
    first = held_up(one, model, pool)
    waiting = [pool.submit(run, one, model, [1.0, 2.0, 3.0])]
    while not one._queues.get("k"):
        pass
    waiting.append(pool.submit(run, one, model, [8.0, 9.0]))
    while one._queues["k"][0].rows < 5:
        pass
    model.gate.set()
    assert [answer.result(JOIN_S) for answer in waiting] == [[2.0, 4.0, 6.0], [16.0, 18.0]]
    assert first.result(JOIN_S) == [0.0] * 8
    assert model.runs[-1] == [1, 2, 3, 8, 9, 8, 8, 8]


def test_request_larger_than_a_batch_is_refused():
    with pytest.raises(StatusError) as error:
        run(scheduler(max_batch_size=2), Model(), [1.0, 2.0, 3.0])
    assert (
        str(error.value)
        == "INVALID_ARGUMENT: Task size 3 is larger than maximum input batch size 2"
    )


def test_full_queue_is_unavailable(pool):
    model, one = Model(), scheduler(max_batch_size=1, max_enqueued_batches=2)
    first = held_up(one, model, pool)
    waiting = [pool.submit(run, one, model, [float(n)]) for n in (1, 2)]
    while len(one._queues.get("k", ())) < 2:
        pass
    with pytest.raises(StatusError) as error:
        run(one, model, [3.0])
    assert (
        str(error.value)
        == "UNAVAILABLE: The batch scheduling queue to which this task was submitted is full; "
        "currently 2 batches enqueued and max_enqueued_batches is 2"
    )
    model.gate.set()
    assert [answer.result(JOIN_S) for answer in (first, *waiting)] == [[0.0], [2.0], [4.0]]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": np.float32(1)}, "Batching Run() input tensors must have at least one dimension"),
        (
            {"x": np.zeros(2), "z": np.zeros(3)},
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
    ],
)
def test_inputs_without_a_common_first_dimension_are_refused(inputs, message):
    with pytest.raises(StatusError) as error:
        scheduler().run(
            "k", Model(), {name: np.asarray(value) for name, value in inputs.items()}, None
        )
    assert str(error.value) == f"INVALID_ARGUMENT: {message}"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.float32(1), "Batched output tensor has 0 dimensions"),
        (
            np.zeros(3),
            (
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension"
                " sizes of the input tensors"
            ),
        ),
    ],
)
def test_outputs_that_are_not_one_row_per_input_row_are_refused(output, message):
    one = scheduler(batch_timeout_s=0)
    with pytest.raises(StatusError) as error:
        one.run("k", lambda *_: {"y": np.asarray(output)}, {"x": np.zeros(2)}, None)
    assert str(error.value) == f"FAILED_PRECONDITION: {message}"


def test_requests_of_different_shapes_fail_together(pool):
    model, one = Model(), scheduler(max_batch_size=2)
    answers = [pool.submit(run, one, model, values) for values in ([[1.0]], [[1.0, 2.0]])]
    for answer in answers:
        with pytest.raises(
            StatusError, match="^FAILED_PRECONDITION: Tensors with name 'x' from different tasks"
        ):
            answer.result(JOIN_S)
    assert model.runs == []


def test_requests_of_different_shapes_are_padded_with_their_own_first_element_where_asked(
    pool,
):
    model, one = Model(), scheduler(max_batch_size=3, pad_variable_length_inputs=True)
    answers = [
        pool.submit(run, one, model, values) for values in ([[1.0, 2.0], [3.0, 4.0]], [[5.0]])
    ]
    assert [answer.result(JOIN_S) for answer in answers] == [
        [[2.0, 4.0], [6.0, 8.0]],
        [[10.0, 10.0]],
    ]
    assert len(model.runs) == 1


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            np.ones((1, 2, 1)),
            "Tensors with name 'x' from different tasks have different ranks: [2, 3]",
        ),
        (np.ones((1, 0)), "Got empty tensor in batch of non-empty tensors."),
    ],
)
def test_shapes_that_cannot_be_padded_are_refused(pool, other, message):
    one = scheduler(max_batch_size=2, pad_variable_length_inputs=True)
    answers = [
        pool.submit(one.run, "k", Model(), {"x": value}, None) for value in (np.ones((1, 2)), other)
    ]
    for answer in answers:
        with pytest.raises(StatusError) as error:
            answer.result(JOIN_S)
        assert str(error.value) == f"INVALID_ARGUMENT: {message}"


def test_padding_keeps_bytes_as_they_are(pool):
    one = scheduler(max_batch_size=2, pad_variable_length_inputs=True)
    rows = [np.array([values], dtype=object) for values in ([b"a\0", b"bc"], [b"d"])]
    answers = [
        pool.submit(one.run, "k", lambda inputs, _: {"y": inputs["x"]}, {"x": row}, None)
        for row in rows
    ]
    assert [answer.result(JOIN_S)["y"].tolist() for answer in answers] == [
        [[b"a\0", b"bc"]],
        [[b"d", b"d"]],
    ]


def test_large_request_is_split_into_runs_of_the_execution_size_and_answered_in_order():
    model = Model()
    one = scheduler(
        max_batch_size=10, max_execution_batch_size=4, allowed_batch_sizes=(2, 4), batch_timeout_s=0
    )
    assert run(one, model, list(range(10))) == [2.0 * n for n in range(10)]
    assert model.runs == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_split_request_that_does_not_fit_into_the_queue_leaves_nothing_in_it(pool):
    model = Model()
    one = scheduler(max_batch_size=4, max_execution_batch_size=1, max_enqueued_batches=2)
    first = held_up(one, model, pool, rows=1)
    with pytest.raises(StatusError, match="^UNAVAILABLE: .* currently 0 batches enqueued"):
        run(one, model, [1.0, 2.0, 3.0])
    assert not one._queues.get("k")
    model.gate.set()
    assert first.result(JOIN_S) == [0.0]


def test_parameters_of_a_request_win_over_those_of_all():
    model, one = Model(), scheduler(max_batch_size=2)
    own = Parameters(max_batch_size=4, allowed_batch_sizes=(4,))
    assert one.run("k", model, {"x": np.ones(3, np.float32)}, None, own)["y"].tolist() == [2.0] * 3
    assert model.runs == [[1.0] * 4]


def test_runs_and_waits_are_counted_under_the_name_of_the_threads():
    metrics = Metrics()
    one = Scheduler(Parameters(num_batch_threads=1, thread_pool_name="pool"), metrics)
    run(one, Model(), [1.0])
    assert metrics.total("/tensorflow/serving/batching_session/wrapped_run_count") == 1
    assert (
        ':tensorflow:serving:batching_session:queuing_latency_count{thread_pool_name="pool"} 1\n'
        in metrics.page()
    )


def test_batch_runs_within_the_longest_deadline_and_not_at_all_if_all_are_over(pool):
    model, one = Model(), scheduler(max_batch_size=2)
    first = held_up(one, model, pool)
    late = pool.submit(run, one, model, [1.0, 1.0], timeout_s=0.0)
    while not one._queues.get("k"):
        pass
    model.gate.set()
    assert first.result(JOIN_S) == [0.0, 0.0]
    with pytest.raises(StatusError) as error:
        late.result(JOIN_S)
    assert (
        str(error.value)
        == "RESOURCE_EXHAUSTED: Run() timeout exceeded while waiting in batching queue"
    )
    answers = [pool.submit(run, one, model, [1.0], timeout_s=limit) for limit in (30.0, 500.0)]
    assert [answer.result(JOIN_S) for answer in answers] == [[2.0], [2.0]]
    assert model.limits[0] is None
    assert 400 < model.limits[1] <= 500


def test_request_without_rows_neither_waits_nor_disturbs():
    model = Model()
    assert run(scheduler(allowed_batch_sizes=(1000,)), model, []) == []


def test_draining_lets_waiting_requests_go(pool):
    model, one = Model(), scheduler()
    answer = pool.submit(run, one, model, [1.0])
    while not one._queues:
        pass
    one.drain()
    assert answer.result(JOIN_S) == [2.0]


def test_parameters_are_read_from_a_text_proto(tmp_path):
    path = tmp_path / "batching.config"
    path.write_text(
        "max_batch_size { value: 32 } batch_timeout_micros { value: 1500 } max_enqueued_batches {"
        ' value: 7 }num_batch_threads { value: 3 } thread_pool_name { value: "p" }'
        " allowed_batch_sizes: 8 allowed_batch_sizes: 32"
    )
    assert read_parameters(str(path)) == Parameters(32, 0.0015, 7, 3, (8, 32), thread_pool_name="p")
    path.write_text(
        "max_batch_size { value: 32 } enable_large_batch_splitting { value: true } "
        "max_execution_batch_size { value: 8 } pad_variable_length_inputs: true"
    )
    expected = Parameters(
        max_batch_size=32, max_execution_batch_size=8, pad_variable_length_inputs=True
    )
    assert read_parameters(str(path)) == expected
    path.write_text("")
    assert read_parameters(str(path)) == Parameters()
    assert (
        Parameters().max_batch_size,
        Parameters().batch_timeout_s,
        Parameters().max_enqueued_batches,
    ) == (
        1000,
        0,
        10,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max_batch_size { value: 32 } allowed_batch_sizes: 16",
            (
                "{path}: Last entry in allowed_batch_sizes must match max_batch_size; last entry"
                " was 16; expected 32: append it, or change max_batch_size"
            ),
        ),
        ("num_batch_threads { value: 0 }", "{path}: num_batch_threads must be positive; was 0"),
        (
            "batch_timeout_micros { value: -5 }",
            "{path}: batch_timeout_micros must not be negative; was -5",
        ),
        ("max_batch_size: 32", "{path} is not a BatchingParameters (1:17: Expected"),
    ],
)
def test_parameters_that_cannot_work_are_refused(tmp_path, text, message):
    path = tmp_path / "batching.config"
    path.write_text(text)
    with pytest.raises(StatusError) as error:
        read_parameters(str(path))
    assert str(error.value).startswith(f"INVALID_ARGUMENT: {message.format(path=path)}")


@pytest.fixture
def batching_client(exported):
    """A gRPC server in this process that runs a batch only when it is full, at 32 rows."""
    one = scheduler(max_batch_size=32)
    load = functools.partial(loading.load, flags=Flags(), batching=one._parameters)
    manager = Manager(load, lambda: None, Flags())
    manager.apply(single_model("probe", f"{exported}/probe"))
    manager.tick()
    handlers = Handlers(manager, one)
    server, port = grpc_service.bind(handlers, "127.0.0.1", 0)
    server.start()
    clients = [Client(port, 0) for _ in range(32)]
    yield clients
    for client in clients:
        client.channel.close()
    server.stop(None).wait()


def test_32_clients_are_answered_by_one_run_each_with_its_own_answer(batching_client, exported):
    texts = [b"\xff rubbish" if n == 13 else b"x" * n for n in range(32)]
    calls = [
        client.predict_soon(request("probe", {"s": [text]}))
        for client, text in zip(batching_client, texts, strict=True)
    ]
    answers = [call.result(JOIN_S).outputs for call in calls]
    assert [list(answer["rows"].int_val) for answer in answers] == [[32]] * 32
    assert [list(answer["length"].int_val) for answer in answers] == [[len(text)] for text in texts]
    alone = loading.load_saved_model(1, f"{exported}/probe/1")
    outputs = alone.signatures["serving_default"].outputs
    feed = {alone.signatures["serving_default"].inputs["s"].name: np.array(texts, dtype=object)}
    (expected,) = alone.run(feed, [outputs["hash"].name], None)
    alone.close()
    assert [answer["hash"].int64_val[0] for answer in answers] == expected.tolist()
    assert len(set(expected.tolist())) == 32


def test_wrong_dtype_is_refused_before_it_meets_others(batching_client):
    with pytest.raises(grpc.RpcError) as error:
        batching_client[0].predict(request("probe", {"s": [1.5]}))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.details() == "Expects arg[0] to be string but float is provided"

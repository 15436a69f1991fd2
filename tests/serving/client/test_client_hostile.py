"""What a server answers that means harm: a ClientError or a well-formed answer comes of it, in time
and in bounded memory.
"""

import asyncio
import math
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator

import grpc
import numpy as np
import pytest

from serving.client import errors
from serving.client.async_client import AsyncPredictClient
from serving.client.channel import MAX_ANSWER_BYTES
from serving.client.predict_client import PredictClient
from serving.client.protocol import Ask, ClientProtocol, Prediction
from serving.client.tensors import encode
from serving.protos import message
from serving.rollout import RunningServer
from tests.serving.client import hostile
from tests.serving.client.hostile import METADATA, PREDICT, STATUS, VERSION, Hostile
from tests.serving.proxy import FaultyProxy
from whisker_ml import contract

LABEL, CHANCE, CHANCES = contract.OUTPUT_LABEL, contract.OUTPUT_PROBABILITY, "probabilities"
CLASSES, VALID, UNSURE = contract.OUTPUT_CLASSES, contract.OUTPUT_VALID, contract.OUTPUT_UNSURE
# Of one answer: what reading it takes for good or for a moment.
MOST_MEMORY = 8 << 20
TIMEOUT_S = 1.0
# A busy machine needs a while to see that time is up.
SLACK_S = 1.5


def tensor(dtype, sizes, **fields):
    made = message("tensorflow.TensorProto")(dtype=dtype, **fields)
    for size in sizes:
        made.tensor_shape.dim.add(size=size)
    return made


def protocol():
    return ClientProtocol("host:1", "whisker", None, None, "", MAX_ANSWER_BYTES)


ROWS = 2
ASKS = {
    "predict": lambda it: it.predict(b"a picture"),
    "batch": lambda it: it.predict_batch(np.zeros((ROWS, 4, 4, 3), np.uint8)),
    "lists": lambda it: it.predict_raw({contract.INPUT_BYTES: [b"a"]}, None, ()),
    "arrays": lambda it: it.predict_raw(
        {contract.INPUT_BYTES: np.array([b"a"], object)}, None, [LABEL, CHANCE]
    ),
    "versions": lambda it: it.model_versions(),
}


def drive(steps, answers):
    """Does what both clients do, without a connection."""
    step = next(steps)
    for _ in range(6):
        assert isinstance(step, Ask)
        try:
            step = steps.send(answers[step.method.partition("/")[2]])
        except StopIteration as end:
            return end.value
    raise AssertionError("the client asks again and again")


def check(outcome):
    """What comes of an answer is what its documentation says."""
    if isinstance(outcome, errors.ClientError):
        assert "\n" not in str(outcome)
        assert len(str(outcome)) < 2100
    elif isinstance(outcome, Prediction):
        every = outcome.probabilities
        assert all(type(name) is str and -0.01 <= p <= 1.01 for name, p in every.items())
        assert math.isclose(sum(every.values()), 1, abs_tol=0.02)
        assert math.isclose(every[outcome.label], outcome.probability, abs_tol=0.02)
        assert math.isclose(max(every.values()), outcome.probability, abs_tol=0.02)
        assert outcome.model_version >= 0
        assert outcome.unsure in (True, False, None)
    elif isinstance(outcome, list):
        assert len(outcome) == ROWS
        for one in outcome:
            assert type(one) is Prediction
            check(one)
    else:
        assert isinstance(outcome, dict)
        kinds = list, float, int, bool, bytes, complex, np.ndarray, str
        assert all(isinstance(value, kinds) for value in outcome.values())


def outcome_of(ask, answers, known=None):
    try:
        return drive(ASKS[ask](known or protocol()), answers)
    except errors.ClientError as error:
        return error


@pytest.fixture
def memory():
    """How much memory Python and NumPy have taken at the most since `reset_peak`."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


# By name: output, what it becomes, what the error says of it.
OF_PREDICTIONS = {
    "one value, three thousand million": (
        CHANCE, tensor(1, [3 * 10**9], float_val=[1]), r"probability as float32 \[3000000000\]",
    ),
    "beyond int64": (
        CHANCES, tensor(1, [1 << 62, 4], float_val=[1]), r"as float32 \[\d+, 4\], not .*\[1, 2\]",
    ),
    "no value, beyond int64": (CHANCES, tensor(1, [0, 1 << 62]), r"\[0, 4611686018427387904\]"),
    "5,000 dimensions": (CHANCE, tensor(1, [1] * 5000, float_val=[1]), "of 5000 dimensions"),
    "no dimensions": (CHANCE, tensor(1, [], float_val=[1]), r"float32 \[\], not float32 \[1\]"),
    "negative": (LABEL, tensor(7, [-1], string_val=[b"cats"]), "of unknown shape"),
    "label as float": (LABEL, tensor(1, [1], float_val=[1]), "label as float32"),
    "valid as string": (VALID, tensor(7, [1], string_val=[b"True"]), "valid as string"),
    "valid as float": (VALID, tensor(1, [1], float_val=[1]), "valid as float32"),
    "unsure of nothing": (UNSURE, tensor(10, [0]), r"unsure as bool \[0\]"),
    "resource": (CHANCE, tensor(20, [1]), "probability as type 20"),
    "unknown type": (CHANCE, tensor(77, [1], float_val=[1]), "probability as type 77"),
    "NaN": (CHANCE, encode([math.nan]), "with probability nan"),
    "NaN among": (CHANCES, encode([[0.75, math.nan]]), r"\[0.75, nan\]"),
    "infinite": (CHANCES, encode([[math.inf, 0.25]]), r"\[inf, 0.25\]"),
    "below 0": (CHANCES, encode([[1.5, -0.5]]), r"that are not probabilities: \[1.5, -0.5\]"),
    "sum of 2": (CHANCES, encode([[1.0, 1.0]]), "that are not probabilities"),
    "sum of 0": (CHANCES, encode([[0.0, 0.0]]), "that are not probabilities"),
    "another probability": (CHANCE, encode([0.5]), "label 'cats' with probability 0.5"),
    "more classes": (CHANCES, encode([[0.75, 0.125, 0.125]]), r"\[1, 3\], not .*\[1, 2\]"),
    "fewer classes": (CHANCES, encode([[1.0]]), r"\[1, 1\], not .*\[1, 2\]"),
    "label that is no class": (LABEL, encode(["lions"]), "label 'lions', which is not among"),
    "label that is not text": (LABEL, encode([b"\xff"]), r"not UTF-8: b'\\xff'"),
    "two labels": (LABEL, encode(["cats", "dogs"]), r"label as string \[2\]"),
    "class twice": (CLASSES, encode([["cats", "cats"]]), "one of them twice"),
    "class that is not text": (CLASSES, encode([[b"cats", b"\xfe"]]), r"not UTF-8: b'\\xfe'"),
    "no classes": (CLASSES, tensor(7, [1, 0]), r"as float32 \[1, 2\], not .*\[1, 0\]"),
    "classes of many": (CLASSES, tensor(7, [1, 3 * 10**9], string_val=[b"a"]), "with 1 values"),
    "values left out": (CHANCES, tensor(1, [1, 2], float_val=[0.5]), r"\[1, 2\] with 1 values"),
    "too many values": (CHANCE, tensor(1, [1], float_val=[0.5, 0.5]), r"\[1\] with 2 values"),
    "torn content": (CHANCE, tensor(1, [1], tensor_content=b"abc"), "3 bytes that are not float32"),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_PREDICTIONS)
def test_answer_about_a_picture_that_is_none_is_refused_in_one_line(name, memory):
    output, bad, text = OF_PREDICTIONS[name]
    response = hostile.predictions()
    response.outputs[output].CopyFrom(bad)
    answers = {**hostile.honest(), PREDICT: response.SerializeToString()}
    outcome = outcome_of("predict", answers)
    assert memory() < MOST_MEMORY
    assert type(outcome) is errors.UnexpectedReply
    assert str(outcome).startswith("host:1: version 3 of model whisker answers with ")
    assert str(outcome).endswith(
        ": it is not a model that Whisker exported; check the model's name"
    )
    check(outcome)
    with pytest.raises(errors.UnexpectedReply, match=text):
        raise outcome


def test_bad_answer_leaves_nothing_behind():
    it = protocol()
    bad = hostile.predictions(classes=("lions", "tigers"))
    bad.outputs[LABEL].CopyFrom(encode(["cats"]))
    with pytest.raises(errors.UnexpectedReply):
        drive(it.predict(b"x"), {**hostile.honest(), PREDICT: bad.SerializeToString()})
    assert drive(it.predict(b"x"), hostile.honest()).label == "cats"


@pytest.mark.parametrize("ask", ["predict", "batch"])
def test_pixels_that_are_said_to_be_no_picture_are_an_unexpected_answer(ask):
    response = hostile.predictions(ROWS if ask == "batch" else 1)
    rows = [False, True] if ask == "batch" else [False]
    response.outputs[VALID].CopyFrom(encode(rows))
    pixels = np.zeros((ROWS, 4, 4, 3), np.uint8)
    it = protocol()
    steps = it.predict_batch(pixels) if ask == "batch" else it.predict(pixels[0])
    with pytest.raises(errors.UnexpectedReply, match="that pixels are not a picture"):
        drive(steps, {**hostile.honest(), PREDICT: response.SerializeToString()})


def test_label_that_is_not_the_most_probable_class_is_refused():
    response = hostile.predictions()
    response.outputs[CHANCE].CopyFrom(encode([0.25]))
    response.outputs[CHANCES].CopyFrom(encode([[0.25, 0.75]]))
    outcome = outcome_of("predict", {**hostile.honest(), PREDICT: response.SerializeToString()})
    assert "label 'cats' with probability 0.25 where" in str(outcome)


def test_classes_that_are_others_for_every_picture_are_refused():
    response = hostile.predictions(ROWS)
    response.outputs[CLASSES].CopyFrom(encode([["cats", "dogs"], ["dogs", "cats"]]))
    outcome = outcome_of("batch", {**hostile.honest(), PREDICT: response.SerializeToString()})
    assert "other classes for every picture" in str(outcome)


# By name: what a tensor of any model is, and what the error says of lists and of arrays; None: it
# can be read.
OF_ANY_MODEL = {
    "one value, three thousand million": (
        tensor(1, [3 * 10**9], float_val=[1]), "with 1 values", "with 1 values",
    ),
    "beyond int64": (tensor(1, [1 << 62, 4], float_val=[1]), "more lists", "with 1 values"),
    "too many digits": (tensor(1, [1 << 62] * 254, float_val=[1]), "more lists", "with 1 values"),
    "a product that takes for ever": (
        tensor(1, [(1 << 63) - 1] * 100_000, float_val=[1]), "100000 dim", "100000 dim",
    ),
    "5,000 dimensions": (tensor(1, [1] * 5000, float_val=[1]), "of 5000 dim", "of 5000 dim"),
    "more dimensions than NumPy has": (tensor(1, [1] * 254, float_val=[1]), None, "maximum"),
    "negative": (tensor(1, [-1], float_val=[1]), "unknown shape", "unknown shape"),
    "both negative": (tensor(1, [-1, -1], float_val=[1]), "unknown shape", "unknown shape"),
    "empty lists without end": (tensor(1, [1 << 62, 0]), "more lists", "maximum"),
    "nothing, beyond int64": (tensor(1, [0, 1 << 62]), None, "array|dimension"),
    "lists of lists of lists": (
        tensor(1, [10_000] + [1] * 250, float_val=[1] * 10_000), "more lists", "maximum",
    ),
    "uint8 of 300": (tensor(4, [1], int_val=[300]), "not uint8", "not uint8"),
    "int8 of -129": (tensor(6, [1], int_val=[-129]), "not int8", "not int8"),
    "half of 2^16": (tensor(19, [1], half_val=[1 << 16]), "not float16", "not float16"),
    "bfloat16 of -1": (tensor(14, [1], half_val=[-1]), "not bfloat16", "not bfloat16"),
    "half a complex number": (
        tensor(8, [1], scomplex_val=[1]), "not complex64", "not complex64",
    ),
    "torn bfloat16": (
        tensor(14, [1], tensor_content=b"abc"), "not bfloat16", "not bfloat16",
    ),
    "torn complex128": (
        tensor(18, [1], tensor_content=bytes(8)), "not complex128", "not complex128",
    ),
    "strings in content": (tensor(7, [1], tensor_content=b"a"), "not string", "not string"),
    "resource": (tensor(20, [1]), "type number 20", "type number 20"),
    "no type": (tensor(0, [1]), "type number 0", "type number 0"),
    "no value": (tensor(1, [1]), "with 0 values", "with 0 values"),
}  # fmt: skip


@pytest.mark.parametrize("ask", ["lists", "arrays"])
@pytest.mark.parametrize("name", OF_ANY_MODEL)
def test_answer_of_any_model_is_read_or_refused_in_one_line(name, ask, memory):
    bad, of_lists, of_arrays = OF_ANY_MODEL[name]
    response = hostile.predictions()
    response.outputs.clear()
    response.outputs[LABEL].CopyFrom(bad)
    response.outputs[CHANCE].CopyFrom(bad)
    answers = {**hostile.honest(), PREDICT: response.SerializeToString()}
    tracemalloc.reset_peak()
    outcome = outcome_of(ask, answers)
    assert memory() < MOST_MEMORY
    check(outcome)
    text = of_lists if ask == "lists" else of_arrays
    if text is None:
        assert isinstance(outcome, dict)
    else:
        with pytest.raises(errors.UnexpectedReply, match=text):
            raise outcome


def test_outputs_that_were_not_asked_for_are_refused():
    answers = hostile.honest()
    asked = protocol().predict_raw({contract.INPUT_BYTES: [b"a"]}, None, [LABEL, CHANCE])
    with pytest.raises(
        errors.UnexpectedReply,
        match=r"outputs .classes., .* where .label., .prob",
    ):
        drive(asked, answers)


def with_model_spec(method, change):
    def answers():
        found = hostile.reply(method)
        found.ParseFromString(hostile.honest()[method])
        change(found)
        return {**hostile.honest(), method: found.SerializeToString()}

    return answers


def with_signatures(change):
    def answers():
        found = hostile.signatures()
        change(found)
        return {**hostile.honest(), METADATA: hostile.metadata(found).SerializeToString()}

    return answers


def many(found):
    for number in range(30_000):
        found.signature_def[f"signature {number}"].method_name = "x"
    del found.signature_def[contract.SIGNATURE_BYTES]


def wild_shapes(found):
    info = found.signature_def[contract.SIGNATURE_BYTES].inputs[contract.INPUT_BYTES]
    info.dtype = 99
    for _ in range(100_000):
        info.tensor_shape.dim.add(size=-(1 << 63))


def wrong_any(found):
    found.metadata["signature_def"].Pack(hostile.statuses())


def torn_any(found):
    found.metadata["signature_def"].value = b"\xff\xff\xff"


def torn(method):
    return lambda: {**hostile.honest(), method: b"\xff\xff"}


def too_long(method):
    # A field that nobody knows, of 5 MiB.
    return lambda: {**hostile.honest(), method: b"\xfa\x3f\x80\x80\xc0\x02" + bytes(5 << 20)}


OF_THE_MODEL = {
    "no version": (with_model_spec(PREDICT, lambda it: it.ClearField("model_spec")), "no version"),
    "version below 0": (
        with_model_spec(PREDICT, lambda it: setattr(it.model_spec.version, "value", -1)),
        "no version",
    ),
    "metadata without version": (
        with_model_spec(METADATA, lambda it: it.ClearField("model_spec")), "no version",
    ),
    "no metadata": (
        with_model_spec(METADATA, lambda it: it.ClearField("metadata")), "no signatures",
    ),
    "Any of another message": (with_model_spec(METADATA, wrong_any), "no signatures"),
    "torn Any": (with_model_spec(METADATA, torn_any), "something that is not a map of signatures"),
    "30,000 signatures": (with_signatures(many), "no signature 'serving_default': the model has"),
    "wild shapes": (with_signatures(wild_shapes), "data type number 99"),
    "OK without an answer": (lambda: {**hostile.honest(), PREDICT: None}, "answers with nothing"),
    "torn answer": (torn(PREDICT), "something that is not a PredictResponse"),
    "torn metadata": (torn(METADATA), "something that is not a GetModelMetadataResponse"),
    "answer of 5 MiB": (too_long(PREDICT), "5,242,886 bytes, more than the 4,194,304 that"),
    "metadata of 5 MiB": (too_long(METADATA), "5,242,886 bytes, more than the 4,194,304 that"),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_THE_MODEL)
def test_answer_about_the_model_that_is_none_is_refused_in_one_line(name):
    answers, text = OF_THE_MODEL[name]
    outcome = outcome_of("predict", answers())
    check(outcome)
    with pytest.raises(errors.ClientError, match=text):
        raise outcome


def test_version_that_was_not_asked_for_is_refused():
    it = ClientProtocol("host:1", "whisker", 7, None, "", MAX_ANSWER_BYTES)
    with pytest.raises(errors.UnexpectedReply, match="version 3 where version 7 was asked for"):
        drive(it.predict(b"x"), hostile.honest())


def test_state_that_nobody_knows_is_unknown():
    response = hostile.reply(STATUS)
    response.model_version_status.add(version=-5, state=77)
    answers = {STATUS: response.SerializeToString()}
    assert outcome_of("versions", answers) == {-5: "UNKNOWN"}
    for bad in (torn(STATUS), too_long(STATUS)):
        assert type(outcome_of("versions", bad())) is errors.UnexpectedReply


def test_no_more_than_a_few_versions_are_remembered():
    it = protocol()
    for version in range(100):
        answers = {}
        for method, response in ((PREDICT, hostile.predictions()), (METADATA, hostile.metadata())):
            response.model_spec.version.value = version
            answers[method] = response.SerializeToString()
        assert drive(it.predict(b"x"), answers).model_version == version
    assert len(it._signatures) == len(it._classes) == 4


# Over connections: in time, in bounded memory, and without a word on standard error.


def sync_call(address, ask, **options):
    with PredictClient(address, timeout_s=TIMEOUT_S, **options) as client:
        found = ask(client)
        return list(found) if isinstance(found, Iterator) else found


def async_call(address, ask, **options):
    async def call():
        async with AsyncPredictClient(address, timeout_s=TIMEOUT_S, **options) as client:
            found = ask(client)
            if isinstance(found, AsyncIterator):
                return [outcome async for outcome in found]
            return await found

    return asyncio.run(call())


BOTH = pytest.mark.parametrize("call", [sync_call, async_call])


@pytest.fixture
def server():
    with Hostile() as it:
        yield it


@pytest.fixture
def in_time():
    start = time.monotonic()
    yield
    assert time.monotonic() - start < TIMEOUT_S + SLACK_S


@pytest.mark.usefixtures("in_time")
@BOTH
@pytest.mark.parametrize("method", [METADATA, PREDICT])
def test_server_that_never_answers_costs_no_more_than_the_timeout(server, call, method):
    server.answers[method] = server.hang
    with pytest.raises(errors.DeadlineExceeded):
        call(server.address, lambda client: client.predict(b"x"))


@BOTH
@pytest.mark.parametrize("code", ["OK", "NOT_FOUND"])
def test_all_questions_of_one_call_share_the_timeout(server, call, code):
    def late(context):
        server.released.wait(0.5 * TIMEOUT_S)
        if code != "OK":
            context.abort(grpc.StatusCode[code], "nothing here")
        return hostile.honest()[METADATA]

    server.answers[METADATA] = late
    server.answers[PREDICT] = server.answers[STATUS] = server.hang
    kind = errors.DeadlineExceeded if code == "OK" else errors.ModelNotFound
    with pytest.raises(kind):
        call(server.address, lambda client: client.predict(b"x"))
    first, second = server.seconds_left
    assert second < 0.51 * TIMEOUT_S < first
    assert server.asked == [METADATA, PREDICT if code == "OK" else STATUS]


@BOTH
@pytest.mark.parametrize("method", [METADATA, PREDICT])
def test_every_outcome_of_many_comes_within_the_timeout(server, call, method):
    server.answers[method] = server.hang
    start = time.monotonic()
    outcomes = call(server.address, lambda client: client.predict_many([b"x"] * 8, concurrency=8))
    assert {type(outcome) for outcome in outcomes} == {errors.DeadlineExceeded}
    # The others wait side by side.
    assert time.monotonic() - start < 2 * TIMEOUT_S + SLACK_S
    # The first picture shares its time with the question for the signatures, which took it all.
    assert server.asked.count(METADATA) <= (8 if method == METADATA else 1)


@pytest.mark.usefixtures("in_time")
def test_waiting_for_a_server_that_never_answers_ends_in_time(server):
    server.answers[STATUS] = server.hang
    with (
        PredictClient(server.address, timeout_s=20) as client,
        pytest.raises(errors.ModelNotReady, match="after 0.5 s: .*DEADLINE_EXCEEDED"),
    ):
        client.wait_until_ready(0.5)


@pytest.mark.usefixtures("in_time")
@BOTH
def test_answer_that_comes_byte_by_byte_costs_no_more_than_the_timeout(server, call):
    with (
        FaultyProxy(server.port, seed=1, bytes_per_fault=1, faults=["dribble"]) as proxy,
        pytest.raises(errors.DeadlineExceeded),
    ):
        call(proxy.address, lambda client: client.predict(b"x"))


@pytest.mark.usefixtures("in_time")
@BOTH
def test_server_that_is_never_available_is_asked_four_times(server, call):
    server.answers[PREDICT] = lambda it: it.abort(grpc.StatusCode.UNAVAILABLE, "come back later")
    with pytest.raises((errors.ServerUnavailable, errors.DeadlineExceeded)):
        call(server.address, lambda client: client.predict(b"x"))
    assert server.asked.count(PREDICT) <= 4


def giant_trailer(context):
    context.set_trailing_metadata((("x", "y" * (5 << 20)),))
    return hostile.honest()[PREDICT]


SIZES = {
    "answer": (lambda _: bytes(1 << 20), errors.MessageTooLarge, "max_answer_bytes of the client"),
    "trailer": (giant_trailer, errors.UnexpectedReply, "exceeds hard limit"),
    "details": (
        lambda it: it.abort(grpc.StatusCode.NOT_FOUND, "x\n" * (1 << 20)),
        errors.UnexpectedReply, "exceeds hard limit",
    ),
    "lines of details": (
        lambda it: it.abort(grpc.StatusCode.INTERNAL, "x\n" * 1750),
        errors.ServerError, "x x … x x",
    ),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("name", SIZES)
def test_answer_of_any_size_is_one_line(server, call, name):
    server.answers[PREDICT], kind, text = SIZES[name]
    with pytest.raises(errors.ClientError, match=text) as caught:
        call(server.address, lambda client: client.predict(b"x"), max_answer_bytes=1 << 19)
    assert type(caught.value) is kind
    check(caught.value)


@BOTH
def test_compressed_answer_is_as_large_as_it_will_be(call):
    with Hostile(compression=grpc.Compression.Gzip) as server:
        server.answers[PREDICT] = lambda _: bytes(4 << 20)
        with pytest.raises(errors.MessageTooLarge, match="Decompressed message larger"):
            call(server.address, lambda client: client.predict(b"x"), max_answer_bytes=1 << 20)


@BOTH
def test_answer_within_the_bound_is_received_whole(server, call):
    response = hostile.predictions()
    response.outputs.clear()
    response.outputs["y"].CopyFrom(encode(np.zeros(6 << 20, np.uint8)))
    server.answers[PREDICT] = response.SerializeToString()
    inputs = {contract.INPUT_BYTES: np.array([b"a"], object)}
    answer = call(server.address, lambda client: client.predict_raw(inputs))
    assert answer["y"].nbytes == 6 << 20
    with pytest.raises(errors.InvalidRequest, match="max_answer_bytes is 2147483648: expected 1"):
        call(server.address, lambda client: client.predict_raw(inputs), max_answer_bytes=1 << 31)


@BOTH
def test_torn_answer_is_one_line_and_nothing_on_standard_error(server, capfd, call):
    server.answers[PREDICT] = b"\xff\xff"
    with pytest.raises(
        errors.UnexpectedReply, match="answers with something that is not a PredictResponse"
    ):
        call(server.address, lambda client: client.predict(b"x"))
    assert "Traceback" not in capfd.readouterr().err


def fuzz_over_connections(server, number, call, draw):
    known = hostile.honest()

    def answer(method):
        def given(_):
            return hostile.mutated(draw, method, known[method])

        return given

    server.answers = {method: answer(method) for method in known}
    server.answers[METADATA] = known[METADATA]
    outcomes = call(server.address, lambda client: client.predict_many([b"x"] * number))
    for outcome in outcomes:
        check(outcome)
    assert {Prediction, errors.UnexpectedReply} <= {type(outcome) for outcome in outcomes}


@BOTH
@pytest.mark.parametrize("number", [200, pytest.param(5_000, marks=pytest.mark.long)])
def test_every_mutated_answer_that_comes_over_a_connection_is_read_or_refused(
    server, capfd, call, number
):
    fuzz_over_connections(server, number, call, random.Random(2))
    assert "Traceback" not in capfd.readouterr().err


@BOTH
@pytest.mark.parametrize("number", [100, pytest.param(2_000, marks=pytest.mark.long)])
def test_every_connection_that_changes_bits_is_read_or_refused(server, capfd, call, number):
    with FaultyProxy(server.port, seed=3, bytes_per_fault=4_000, faults=["flip"]) as proxy:
        outcomes = call(proxy.address, lambda client: client.predict_many([b"x"] * number))
    for outcome in outcomes:
        check(outcome)
    assert len(outcomes) == number
    assert proxy.faults["flip"] > number / 50
    assert "Traceback" not in capfd.readouterr().err


# What rollouts and the command read of a server.


def test_rollout_reads_what_a_server_says_of_its_versions_or_refuses_it(server):
    status = hostile.statuses()
    status.model_version_status[1].state = 77
    status.model_version_status[1].status.error_message = "no\nmemory " * 1000
    unversioned = hostile.reply(METADATA).SerializeToString()
    with RunningServer(server.address) as running:
        server.answers[STATUS] = status.SerializeToString()
        found = running.versions("whisker")
        assert (found[VERSION].state, found[2].state) == ("AVAILABLE", "UNKNOWN")
        assert found[2].error.startswith("no memory no")
        assert len(found[2].error) < 2100
        server.answers = {STATUS: b"\xff\xff", METADATA: unversioned}
        with pytest.raises(
            errors.UnexpectedReply, match="not a GetModelStatusResponse: check that"
        ):
            running.versions("whisker")
        with pytest.raises(errors.UnexpectedReply, match="answers with no version: check that"):
            running.labelled("whisker", "stable", None)


@pytest.mark.parametrize(
    ("method", "bad", "text"),
    [
        (STATUS, b"\xff\xff", "something that is not a GetModelStatusResponse"),
        (METADATA, b"\xff\xff", "something that is not a GetModelMetadataResponse"),
        (PREDICT, b"\xff\xff", "something that is not a PredictResponse"),
    ],
)
def test_command_ends_with_one_line(server, tmp_path, method, bad, text):
    (tmp_path / "a.jpg").write_bytes(b"x")
    server.answers[method] = bad
    command = [sys.executable, "-m", "serving.predict", f"--server={server.address}", str(tmp_path)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert text in line


# Very many answers.


def fuzz(number, seed, memory):
    draw = random.Random(seed)
    seen = {"read": 0, "refused": 0}
    slowest = largest = 0
    known = {rows: hostile.honest(rows) for rows in (1, ROWS)}
    for _ in range(number):
        ask = draw.choice(list(ASKS))
        method = STATUS if ask == "versions" else draw.choice((PREDICT, PREDICT, METADATA))
        it = protocol()
        if method != METADATA and draw.random() < 0.5:
            # Asked before, it leaves out what it knows.
            check(outcome_of("predict", known[1], it))
        answers = dict(known[ROWS if ask == "batch" else 1])
        answers[method] = hostile.mutated(draw, method, answers[method])
        tracemalloc.reset_peak()
        before, start = memory(), time.process_time()
        try:
            outcome = outcome_of(ask, answers, it)
        except BaseException:
            print(ask, method, answers[method][:5000])
            raise
        slowest = max(slowest, time.process_time() - start)
        largest = max(largest, memory() - before)
        check(outcome)
        check(outcome_of("predict", known[1], it))
        seen["refused" if isinstance(outcome, errors.ClientError) else "read"] += 1
    print(seen, f"{slowest:.2f} s, {largest:,} bytes at the most")
    assert slowest < SLACK_S
    assert largest < MOST_MEMORY
    # Both ways out are ways that the mutations take.
    assert min(seen.values()) > number / 20


def test_every_mutated_answer_is_read_or_refused(memory):
    fuzz(2_000, 1, memory)


@pytest.mark.long
def test_every_one_of_very_many_mutated_answers_is_read_or_refused(memory):
    fuzz(100_000, random.SystemRandom().randrange(1 << 32), memory)

"""gRPC reflection as grpcurl uses it: services are listed and described, and called by what was
learnt.
"""

import threading

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from serving.server import grpc_service
from serving.server.flags import Flags
from serving.server.handlers import Handlers
from serving.server.loading import load_saved_model as load
from serving.server.manager import Manager
from tests.serving.server.asking import silent_calls, wait_until

ARRIVAL_S = 3
LISTED = [
    "grpc.reflection.v1alpha.ServerReflection",
    "tensorflow.serving.ModelService",
    "tensorflow.serving.PredictionService",
]
REFLECTION = f"/{LISTED[0]}/ServerReflectionInfo"


@pytest.fixture(scope="module")
def more_flags():
    return [
        "--enable_grpc_healthcheck_service",
        f"--request_arrival_timeout_in_ms={ARRIVAL_S * 1000}",
    ]


def listed(channel):
    return ProtoReflectionDescriptorDatabase(channel).get_services()


def call(channel, service, method, fields):
    """Calls a method with nothing known of it but its name."""
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    described = pool.FindServiceByName(service).methods_by_name[method]
    sent, received = map(GetMessageClass, (described.input_type, described.output_type))
    return channel.unary_unary(f"/{service}/{method}", sent.SerializeToString, received.FromString)(
        sent(**fields), timeout=20
    )


def test_every_service_is_listed_and_described(client):
    services = listed(client.channel)
    assert services == ["grpc.health.v1.Health", *LISTED]
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(client.channel))
    methods = [sorted(pool.FindServiceByName(name).methods_by_name) for name in services]
    assert methods == [
        ["Check"],
        ["ServerReflectionInfo"],
        ["GetModelStatus", "HandleReloadConfigRequest"],
        ["Classify", "GetModelMetadata", "MultiInference", "Predict", "Regress"],
    ]


def test_what_is_described_can_be_called(client):
    x = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": 1}]}, "float_val": [1]}
    answer = call(
        client.channel,
        "tensorflow.serving.PredictionService",
        "Predict",
        {"model_spec": {"name": "half"}, "inputs": {"x": x}},
    )
    assert list(answer.outputs["y"].float_val) == [3.5]
    status = call(
        client.channel,
        "tensorflow.serving.ModelService",
        "GetModelStatus",
        {"model_spec": {"name": "half"}},
    )
    assert [one.version for one in status.model_version_status] == [2, 1]
    health = call(client.channel, "grpc.health.v1.Health", "Check", {"service": "ModelService"})
    assert health.status == health.SERVING


def test_symbol_that_is_not_there_is_an_answer(client):
    requests = [
        ServerReflectionRequest(file_containing_symbol="tensorflow.serving.SessionService"),
        ServerReflectionRequest(file_by_filename="etc/passwd"),
        ServerReflectionRequest(),
        ServerReflectionRequest(list_services="*"),
    ]
    answers = list(exchange(client.channel, iter(requests)))
    assert [one.error_response.error_code for one in answers] == [5, 5, 3, 0]
    assert len(answers[3].list_services_response.service) == 4


def test_health_is_listed_where_it_answers():
    manager = Manager(load, lambda: None, Flags())
    server, port = grpc_service.bind(Handlers(manager, None), "127.0.0.1", 0)
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert listed(channel) == LISTED
    server.stop(None).wait(10)


def exchange(channel, messages):
    return channel.stream_stream(
        REFLECTION, ServerReflectionRequest.SerializeToString, ServerReflectionResponse.FromString
    )(messages, timeout=60)


def test_stream_that_stays_open_ends(client):
    end = threading.Event()

    def one_and_no_end():
        yield ServerReflectionRequest(list_services="")
        end.wait(60)

    stream = exchange(client.channel, one_and_no_end())
    assert len(next(stream).list_services_response.service) == 4
    with pytest.raises(grpc.RpcError) as error:
        next(stream)
    end.set()
    assert error.value.code() == grpc.StatusCode.CANCELLED


def test_streams_that_send_nothing_end_and_leave_the_others_alone(server):
    with silent_calls(server, 6, 128, REFLECTION) as calls:
        # Of more than 512 the oldest end at once.
        wait_until(lambda: sum(one.done() for one in calls) >= 6 * 128 - 512)
        assert len(listed(server.client.channel)) == 4
        wait_until(lambda: all(one.done() for one in calls))
        assert {one.code() for one in calls} == {grpc.StatusCode.CANCELLED}
    assert len(listed(server.client.channel)) == 4

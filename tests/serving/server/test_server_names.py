"""What a client learns of the models of a real server where it gives no name, or a wrong one."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from serving.client.async_client import AsyncPredictClient
from serving.client.errors import InvalidRequest, ModelNotFound
from serving.client.predict_client import PredictClient
from tests.serving.server.asking import request, running
from whisker_ml.contract import MODELS_METADATA

ONE = {"x": [[1.0]]}


@pytest.fixture(scope="module")
def single(exported, tmp_path_factory):
    """A server whose only model is `digits`."""
    with running(
        tmp_path_factory.mktemp("single"),
        "--model_name=digits",
        f"--model_base_path={exported}/half",
    ) as it:
        yield it


def address(server):
    return f"127.0.0.1:{server.ports['port']}"


def test_only_model_is_taken_where_no_name_is_given(single):
    with PredictClient(address(single)) as client:
        assert client.predict_raw(ONE) == {"y": [[3.5]]}
    with PredictClient(address(single)) as client:
        assert client.model_versions() == {2: "AVAILABLE"}
    with PredictClient(address(single)) as client:
        client.wait_until_ready(20)

    async def ask():
        async with AsyncPredictClient(address(single)) as client:
            return await client.predict_raw(ONE)

    assert asyncio.run(ask()) == {"y": [[3.5]]}


def test_wrong_name_is_blamed_and_not_the_label(single):
    with (
        PredictClient(address(single), "other", label="stable") as client,
        pytest.raises(ModelNotFound, match="no such model: ask for one of digits") as error,
    ):
        client.predict_raw(ONE)
    assert error.value.models == ("digits",)


def test_wrong_label_of_the_right_model_is_blamed(single):
    with (
        PredictClient(address(single), label="stable") as client,
        pytest.raises(InvalidRequest, match="label: stable"),
    ):
        client.predict_raw(ONE)


@pytest.mark.parametrize("name", [None, "other"])
def test_several_models_are_named(server, name):
    with (
        PredictClient(address(server), name) as client,
        pytest.raises(ModelNotFound, match="ask for one of half, probe"),
    ):
        client.predict_raw(ONE)


def test_version_that_is_not_there_is_answered_as_by_the_real_server(server):
    with pytest.raises(grpc.RpcError) as error:
        server.client.predict(request("half", {}, version={"value": 99}))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    assert not error.value.trailing_metadata()


@pytest.mark.parametrize("told", [b"", b"{", b"[" * 5000, b'{"a": 1}', b"[1]", b"\xff", b"[]"])
def test_names_that_are_none_are_ignored(told):
    def refuse(_, context):
        context.set_trailing_metadata(((MODELS_METADATA, told),))
        context.abort(grpc.StatusCode.NOT_FOUND, "no")

    server = grpc.server(ThreadPoolExecutor(1))
    methods = {"GetModelStatus": grpc.unary_unary_rpc_method_handler(refuse)}
    service = "tensorflow.serving.ModelService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with PredictClient(f"127.0.0.1:{port}") as client, pytest.raises(ModelNotFound) as error:
        client.model_versions()
    assert error.value.models == ()
    server.stop(None)

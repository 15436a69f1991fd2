"""A real server process with TLS, a Unix socket, health, metrics and batching per version; one of
its models loads.
"""

import datetime
import shutil
import urllib.request

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from serving.config import monitoring, tls
from tests.serving.server.asking import Client, request, running


def issue(name, issuer=None):
    """A key and a certificate, both PEM, signed by `issuer` (a pair of objects) or by itself; and
    the pair.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer_key, issuer_name = (issuer[0], issuer[1].subject) if issuer else (key, subject)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(encoding), (key, certificate)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """PEM files `ca`, and `<name>.key` and `<name>.pem` of `server` and `client`."""
    folder = tmp_path_factory.mktemp("keys")
    _, ca, pair = issue("ca")
    (folder / "ca").write_bytes(ca)
    for name in ("server", "client"):
        key, certificate, _ = issue(name, pair)
        (folder / f"{name}.key").write_bytes(key)
        (folder / f"{name}.pem").write_bytes(certificate)
    return folder


@pytest.fixture(scope="module")
def secured(exported, keys, tmp_path_factory):
    root = tmp_path_factory.mktemp("secured")
    shutil.copytree(exported / "half", root / "half")
    (root / "half" / "2" / "batching_params.pbtxt").write_text("max_batch_size { value: 2 }")
    (root / "broken" / "1").mkdir(parents=True)
    listed = "".join(
        f'config {{ name: "{name}" base_path: "{root}/{name}" model_platform: "tensorflow" '
        "model_version_policy { all {} } } "
        for name in ("broken", "half", "missing")
    )
    (root / "models.config").write_text(f"model_config_list {{ {listed} }}")
    (root / "batching.config").write_text(
        'num_batch_threads { value: 1 } thread_pool_name { value: "shared" }'
    )
    monitoring.write(root / "monitoring.config", monitoring.make("/metrics"))
    tls.write(root / "tls.config", tls.make(keys / "server.key", keys / "server.pem", keys / "ca"))
    with running(
        root,
        f"--model_config_file={root}/models.config",
        "--start_with_what_loads",
        "--max_num_load_retries=0",
        "--enable_batching",
        "--enable_per_model_batching_parameters",
        f"--batching_parameters_file={root}/batching.config",
        f"--monitoring_config_file={root}/monitoring.config",
        f"--ssl_config_file={root}/tls.config",
        "--enable_grpc_healthcheck_service",
        f"--grpc_socket_path={root}/grpc.sock",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=600000,grpc.primary_user_agent=x",
        "--grpc_max_threads=3",
        "--rest_api_num_threads=2",
        "--tensorflow_session_parallelism=1",
        "--enable_profiler=true",
    ) as it:
        it.socket = f"unix:{root}/grpc.sock"
        yield it


def channel(server, keys, certificate="client", address=None):
    read = (keys / "ca").read_bytes()
    pair = (
        [(keys / f"{certificate}{end}").read_bytes() for end in (".key", ".pem")]
        if certificate
        else [None, None]
    )
    address = address or f"localhost:{server.ports['port']}"
    options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.enable_retries", 0)]
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(read, *pair), options)


@pytest.fixture
def secured_client(secured, keys):
    with channel(secured, keys) as it:
        yield Client(**secured.ports, channel=it)


def half(rows=1, **spec):
    return request("half", {"x": np.ones((rows, 1), np.float32)}, **spec)


def test_client_with_a_certificate_is_answered_and_one_without_is_not(
    secured, keys, secured_client
):
    assert list(secured_client.predict(half()).outputs["y"].float_val) == [3.5]
    with channel(secured, keys, certificate=None) as bare, pytest.raises(grpc.RpcError) as error:
        Client(**secured.ports, channel=bare).predict(half(), timeout_s=10)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.RpcError) as error:
        secured.client.predict(half(), timeout_s=10)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE


def test_unix_socket_is_answered(secured, keys):
    with channel(secured, keys, address=secured.socket) as it:
        assert list(Client(**secured.ports, channel=it).predict(half()).outputs["y"].float_val) == [
            3.5
        ]


def test_models_that_load_are_served_and_the_others_reported(secured, secured_client):
    assert secured_client.states("half") == {2: "AVAILABLE", 1: "AVAILABLE"}
    assert secured_client.states("broken") == {1: "END"}
    with pytest.raises(grpc.RpcError) as error:
        secured_client.states("missing")
    assert error.value.details() == "Could not find any versions of model missing"
    assert secured.log.read_text().count("starting without broken, missing") == 1


def test_version_with_batching_parameters_is_batched_by_them_and_one_without_is_not(secured_client):
    with pytest.raises(grpc.RpcError) as error:
        secured_client.predict(half(rows=3))
    assert error.value.details() == "Task size 3 is larger than maximum input batch size 2"
    assert (
        len(secured_client.predict(half(rows=3, version={"value": 1})).outputs["y"].float_val) == 3
    )


@pytest.mark.parametrize("service", ["", "ModelService", "PredictionService"])
def test_health_service_serves_the_names_of_the_real_one(secured_client, service):
    check = secured_client.channel.unary_unary(
        "/grpc.health.v1.Health/Check", StringValue.SerializeToString, Int32Value.FromString
    )
    assert check(StringValue(value=service), timeout=10).value == 1


def test_health_of_another_service_is_not_found(secured_client):
    check = secured_client.channel.unary_unary(
        "/grpc.health.v1.Health/Check", StringValue.SerializeToString
    )
    with pytest.raises(grpc.RpcError) as error:
        check(StringValue(value="tensorflow.serving.PredictionService"), timeout=10)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


def metrics(server):
    with urllib.request.urlopen(server.client.rest + "/metrics", timeout=10) as response:  # noqa: S310
        assert response.headers["Content-Type"].startswith("text/plain")
        return dict(line.rsplit(" ", 1) for line in response.read().decode().splitlines())


def test_requests_over_both_protocols_are_counted_by_model_and_status(secured, secured_client):
    before = metrics(secured)
    secured_client.predict(half())
    with pytest.raises(grpc.RpcError):
        secured_client.predict(request("none", {}))
    assert secured.client.http("/v1/models/half:predict", b'{"instances": [[1.0]]}')[0] == 200
    assert secured.client.http("/v1/models/half:predict", b"{}")[0] == 400
    after = metrics(secured)
    prefix = ":tensorflow:serving:"
    increases = {
        f'{prefix}request_count{{model_name="half",status="OK"}}': 2,
        f'{prefix}request_count{{model_name="none",status="NOT_FOUND"}}': 1,
        f'{prefix}request_count{{model_name="half",status="INVALID_ARGUMENT"}}': 1,
        f'{prefix}request_latency_count{{model_name="half",API="Predict",entrypoint="GRPC"}}': 1,
        f'{prefix}request_latency_count{{model_name="half",API="predict",entrypoint="REST"}}': 1,
        f'{prefix}runtime_latency_count{{model_name="half",API="Predict",runtime="TF1"}}': 1,
        f'{prefix}runtime_latency_count{{model_name="half",API="predict",runtime="TF1"}}': 1,
        f'{prefix}batching_session:queuing_latency_count{{thread_pool_name="shared"}}': 2,
        f"{prefix}batching_session:wrapped_run_count{{}}": 2,
    }
    assert {name: int(after[name]) - int(before.get(name, 0)) for name in increases} == increases
    assert after[f"# TYPE {prefix}request_count"] == "counter"
    assert after[f"# TYPE {prefix}request_latency"] == "histogram"


def test_flag_that_has_no_effect_is_answered_by_one_line(secured):
    assert secured.log.read_text().count("--enable_profiler") == 1
    assert (
        "warning: --enable_profiler has no effect here: the profiler is not supported"
        in secured.log.read_text()
    )

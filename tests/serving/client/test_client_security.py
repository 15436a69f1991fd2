import datetime
import http.server
import ipaddress
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from serving.client import errors
from serving.client.channel import Tls, open_channel
from serving.client.predict_client import PredictClient
from serving.rollout import AVAILABLE, RunningServer


def issue(folder, name, issuer=None):
    """Writes a key and a certificate for 127.0.0.1 and `whisker.test`, signed by `issuer` or by
    itself.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("whisker.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    return SimpleNamespace(certificate=certificate, key=key, crt=paths[0], pem=paths[1])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    ca, stranger = issue(folder, "ca"), issue(folder, "stranger")
    return SimpleNamespace(
        ca=ca,
        stranger=stranger,
        server=issue(folder, "server", ca),
        client=issue(folder, "client", ca),
    )


@pytest.fixture(params=[False])
def secure(request, files, stand_in_class):
    """A server with TLS; with the parameter True it asks clients for a certificate."""
    pair = files.server.pem.read_bytes(), files.server.crt.read_bytes()
    credentials = grpc.ssl_server_credentials([pair], files.ca.crt.read_bytes(), request.param)
    server = stand_in_class(credentials=credentials)
    server.start()
    yield server
    server.stop()


mutual = pytest.mark.parametrize("secure", [True], indirect=True)


def fails(address, kind, text, **arguments):
    with PredictClient(address, **arguments) as client, pytest.raises(kind, match=text) as caught:
        client.predict(b"dogs 0.75")
    return caught.value


def test_tls_with_the_ca_of_the_server_works(secure, files):
    with PredictClient(secure.address, tls=Tls(ca=files.ca.crt)) as client:
        assert client.predict(b"dogs 0.75").label == "dogs"


def test_several_addresses_are_asked_in_turn_over_tls_too(secure, files, stand_in_class):
    addresses = [secure.address, f"localhost:{secure.port}"]
    with PredictClient(addresses, tls=Tls(ca=files.ca.crt, server_name="whisker.test")) as client:
        assert client.predict(b"dogs 0.75").label == "dogs"
    first, second = stand_in_class(), stand_in_class()
    first.start(), second.start()
    try:
        with PredictClient([first.address, f"localhost:{second.port}"]) as client:
            # Until both connections stand, the one that does is asked.
            while not (first.requests and second.requests):
                assert len(first.requests + second.requests) < 1000
                client.predict(b"dogs 0.75")
    finally:
        first.stop(), second.stop()


@mutual
def test_mutual_tls_works_with_the_clients_certificate(secure, files):
    tls = Tls(ca=files.ca.crt, certificate=files.client.crt, key=files.client.pem)
    with PredictClient(secure.address, tls=tls) as client:
        assert client.predict(b"dogs 0.75").label == "dogs"


@mutual
def test_command_uses_the_files_that_its_flags_name(secure, files, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    flags = [
        f"--tls_ca={files.ca.crt}",
        f"--tls_certificate={files.client.crt}",
        f"--tls_key={files.client.pem}",
    ]
    command = [
        sys.executable,
        "-m",
        "serving.predict",
        f"--server={secure.address}",
        f"--token_file={tmp_path}/token",
    ]
    ended = subprocess.run(
        [*command, *flags, "-"],
        input="dogs 0.75",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert secure.tokens == ["Bearer secret"]


@mutual
def test_server_that_a_rollout_moves_is_asked_the_same_way(secure, files):
    tls = Tls(ca=files.ca.crt, certificate=files.client.crt, key=files.client.pem)
    with RunningServer(secure.address, tls=tls) as server:
        assert AVAILABLE in {status.state for status in server.versions("whisker").values()}


@mutual
def test_missing_certificate_of_the_client_is_named_as_a_cause(secure, files):
    fails(
        secure.address,
        errors.ServerUnavailable,
        "needs TLS or a client's certificate",
        tls=Tls(ca=files.ca.crt),
    )


def test_plaintext_to_a_port_with_tls_is_named_as_a_cause(secure):
    error = fails(secure.address, errors.ServerUnavailable, "needs TLS or a client's certificate")
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert "\n" not in str(error)


def test_tls_to_a_port_without_it_is_named_as_such(stand_in, files):
    fails(
        stand_in.address,
        errors.WrongProtocol,
        "does not use TLS: leave out tls",
        tls=Tls(ca=files.ca.crt),
    )


def test_certificate_that_nobody_trusted_signed_is_named_as_such(secure, files):
    fails(
        secure.address,
        errors.WrongProtocol,
        "not signed by a trusted one",
        tls=Tls(ca=files.stranger.crt),
    )


def test_certificate_for_another_name_is_named_as_such(secure, files):
    tls = Tls(ca=files.ca.crt, server_name="other.test")
    fails(secure.address, errors.WrongProtocol, "certificate is for another name", tls=tls)


def test_port_that_never_answers_ends_at_the_deadline_with_what_to_look_at():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        fails(
            address,
            errors.DeadlineExceeded,
            "check that the address is its gRPC port",
            timeout_s=0.3,
        )


def test_port_of_plain_http_is_named_as_no_grpc_port():
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
    ) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            fails(
                f"127.0.0.1:{server.server_port}",
                errors.WrongProtocol,
                "not a gRPC port: give the server's gRPC port",
            )
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda _: Tls(ca="missing.crt"), "missing.crt: No such file"),
        (lambda files: Tls(ca=files.server.pem), r"server.key: not the PEM text that is expected"),
        (lambda files: Tls(certificate=files.client.crt), "certificate and key belong together"),
        (
            lambda files: Tls(certificate=files.client.crt, key=files.server.pem),
            r"client.crt \(or .*server.key.*not the",
        ),
    ],
    ids=["missing", "no_certificate", "no_key", "another_key"],
)
def test_files_that_cannot_work_are_refused_at_once(files, make, text):
    with pytest.raises(errors.InvalidRequest, match=text):
        PredictClient(tls=make(files))


@pytest.mark.parametrize("token", ["abc", lambda: "abc"], ids=["text", "function"])
def test_token_goes_with_every_call_over_tls(secure, files, token):
    with PredictClient(secure.address, tls=Tls(ca=files.ca.crt), token=token) as client:
        client.predict(b"dogs 0.75")
        client.predict(b"dogs 0.75")
    assert secure.tokens == ["Bearer abc"] * 2


def test_token_goes_over_plaintext_to_this_machine_only(stand_in):
    with PredictClient(stand_in.address, token="abc") as client:
        client.predict(b"dogs 0.75")
    assert stand_in.tokens == ["Bearer abc"]
    for server in (
        "models:8500",
        ["127.0.0.1:8500", "10.0.0.1:8500"],
        "ipv4:127.0.0.1:1,10.0.0.1:2",
    ):
        with pytest.raises(
            errors.InvalidRequest, match=r"without TLS: anyone on the way could read it.*tls=Tls"
        ):
            open_channel(server, token="abc")


def test_function_that_has_no_token_fails_the_call_with_its_text(stand_in):
    def token():
        raise errors.NotAllowed("the account is locked")

    fails(
        stand_in.address,
        errors.NotAllowed,
        "the account is locked; check that token returns a token",
        token=token,
    )


def test_refused_token_is_told_as_that(stand_in):
    stand_in.failures.append((grpc.StatusCode.UNAUTHENTICATED, "token expired"))
    error = fails(
        stand_in.address, errors.NotAllowed, "token expired; check the client's token", token="abc"
    )
    assert error.details == "token expired"


@pytest.mark.parametrize("server", ["", [], ["a:1", ""]])
def test_server_without_an_address_is_refused(server):
    with pytest.raises(errors.InvalidRequest, match="expected host:port"):
        PredictClient(server)


@pytest.mark.parametrize("server", ["http://a:8500", ["a:1", "https://b:2"]])
def test_address_of_a_web_page_is_refused(server):
    with pytest.raises(errors.InvalidRequest, match="expected host:port .*, without https?://$"):
        PredictClient(server)


def test_address_that_grpc_cannot_read_is_refused():
    fails(
        "ipv4:localhost:1",
        errors.InvalidRequest,
        "expected host:port, or another name that gRPC knows",
    )

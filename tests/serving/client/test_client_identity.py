import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt

from serving.client.channel import IdentityToken
from serving.client.errors import NotAllowed
from serving.client.predict_client import PredictClient

AUDIENCE = "https://models.example"


@pytest.fixture(scope="module")
def key():
    private = rsa.generate_private_key(65537, 2048)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return private.private_bytes(pem, pkcs8, serialization.NoEncryption()).decode()


@pytest.fixture
def google(key):
    """Stands in for Google's token endpoint and for a machine's metadata server; counts what it has
    issued.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            claims = jwt.decode(form["assertion"][0], verify=False)
            self._answer(
                json.dumps({"id_token": token(claims["target_audience"])}), "application/json"
            )

        def do_GET(self):
            query = parse_qs(self.path.partition("?")[2])
            if "recursive" in query:
                self._answer(json.dumps({"email": "client@example"}), "application/json")
            else:
                self._answer(token(*query["audience"]) if "audience" in query else "", "text/plain")

        def _answer(self, text, kind):
            self.send_response(server.status)
            self.send_header("Content-Type", kind)
            self.send_header("Metadata-Flavor", "Google")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    def token(audience):
        server.issued += 1
        expires = int(time.time()) + server.lasts_s
        return jwt.encode(
            crypt.RSASigner.from_string(key), {"aud": audience, "exp": expires}
        ).decode()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.issued, server.lasts_s, server.status = 0, 3600, 200
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


@pytest.fixture
def account(google, key, tmp_path, monkeypatch):
    """The key file of a service account, whose tokens the stand-in issues."""
    content = {
        "type": "service_account",
        "client_email": "client@example",
        "private_key": key,
        "token_uri": f"http://127.0.0.1:{google.server_port}/token",
    }
    (tmp_path / "key.json").write_text(json.dumps(content))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))


@pytest.mark.usefixtures("account")
def test_token_of_a_service_account_goes_with_the_calls_and_is_asked_for_once(google, stand_in):
    with PredictClient(stand_in.address, token=IdentityToken(AUDIENCE)) as client:
        client.predict(b"dogs 0.75")
        client.predict(b"dogs 0.75")
    first, second = stand_in.tokens
    assert first == second
    assert jwt.decode(first.removeprefix("Bearer "), verify=False)["aud"] == AUDIENCE
    assert google.issued == 1


@pytest.mark.usefixtures("account")
def test_token_that_is_about_to_end_is_renewed(google):
    token = IdentityToken(AUDIENCE)
    google.lasts_s = 5
    token()
    token()
    assert google.issued == 2


@pytest.mark.usefixtures("account")
def test_endpoint_that_refuses_is_told_in_one_line(google):
    google.status = 403
    with pytest.raises(
        NotAllowed, match=rf"no identity token for {AUDIENCE}: .*; run in Google Cloud, or let"
    ) as caught:
        IdentityToken(AUDIENCE)()
    assert "\n" not in str(caught.value)


def test_machine_in_the_cloud_gets_its_token_from_the_metadata_server(google, tmp_path):
    # A process of its own: google-auth reads where the metadata server is when it is imported.
    host = f"127.0.0.1:{google.server_port}"
    program = (
        f"from serving.client.channel import IdentityToken; print(IdentityToken({AUDIENCE!r})())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert jwt.decode(ended.stdout.strip(), verify=False)["aud"] == AUDIENCE

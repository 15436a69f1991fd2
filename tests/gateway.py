"""A gateway before the storage emulator that fails on demand."""

import http.client
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import unquote, urlsplit

import pytest


class FailingGateway:
    """Stands between the client and the emulator, over HTTP, and can answer writes itself.

    Attributes:
        url: for STORAGE_EMULATOR_HOST.
        names: of the objects uploaded, and made by copying, so far, in order.
        copied: those of them that were made by copying.
    """

    def __init__(self, emulator: str) -> None:
        self.names: list[str] = []
        self.copied: set[str] = set()
        self._emulator = urlsplit(emulator).netloc
        self._refused = range(0)
        self._status = 0
        self._after_storing = self._deletions_too = False
        self._cut = 0
        self._lock = Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def refuse_uploads(
        self,
        *,
        start: int,
        status: int,
        count: int = 1000,
        after_storing: bool = False,
        deletions_too: bool = False,
    ) -> None:
        """Answers `count` uploads, from number `start` (from 1) on, with an HTTP status.

        With `after_storing` they reach the emulator all the same: an answer that is lost on its
        way.
        """
        self._refused = range(start, start + count)
        self._status, self._after_storing, self._deletions_too = (
            status,
            after_storing,
            deletions_too,
        )

    def accept_uploads(self) -> None:
        self._refused = range(0)

    def cut_answers(self, count: int = 1) -> None:
        """Breaks the connection in the middle of the next answers that have a body."""
        self._cut = count

    @property
    def cuts_left(self) -> int:
        return self._cut

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _refusal(self, method: str, path: str, body: bytes) -> int | None:
        if method == "DELETE" and self._deletions_too:
            return self._status
        if method != "POST":
            return None
        with self._lock:
            # A copy's target stands in the path; the name of a multipart upload in its JSON part.
            copied = re.search(r"/copyTo/b/[^/]+/o/([^?]+)", path)
            if copied:
                self.names.append(unquote(copied[1]))
                self.copied.add(self.names[-1])
            else:
                self.names.append(re.search(rb'"name": ?"([^"]+)"', body)[1].decode())
            return self._status if len(self.names) in self._refused else None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, content, headers = gateway._refusal(self.command, self.path, body), b"", {}
                if status is None or gateway._after_storing:
                    connection = http.client.HTTPConnection(gateway._emulator, timeout=20)
                    connection.request(self.command, self.path, body, dict(self.headers))
                    answer = connection.getresponse()
                    content, headers = answer.read(), dict(answer.getheaders())
                    connection.close()
                    status = status or answer.status
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in (
                        "content-length",
                        "transfer-encoding",
                        "connection",
                        "date",
                    ):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if gateway._cut and len(content) > 1:
                    gateway._cut -= 1
                    content, self.close_connection = content[: len(content) // 2], True
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = _pass_on  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        return Handler


@pytest.fixture
def gateway(
    bucket: str,  # noqa: ARG001
    gcs_emulator: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[FailingGateway]:
    """A gateway before the emulator, which STORAGE_EMULATOR_HOST names meanwhile."""
    gateway = FailingGateway(gcs_emulator)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gateway.url)
    yield gateway
    gateway.close()

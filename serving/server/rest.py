"""The REST side: paths, methods and error JSON of TensorFlow Serving, and a few paths of our own.

Our own are ``GET /v1/models`` (which the real server refuses), ``/healthz``, ``/readyz`` and the
demo page at ``/``.
"""

import json
import logging
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
)
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.regression_pb2 import RegressionRequest

from serving.server import rest_inputs, rest_json
from serving.server.flags import Flags
from serving.server.handlers import Handlers
from serving.server.metrics import Request
from serving.server.predict import DEFAULT_SIGNATURE, run_signature
from serving.server.status import StatusError, internal, invalid_argument, unavailable

# http_rest_api_util.cc; names of methods count as written, whatever the pattern says.
_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(
    rf"(?i)/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<method>classify|regress|predict)", re.ASCII
)
_GET = re.compile(
    rf"(?i)/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<method>metadata))?", re.ASCII
)

_MAX_VERSION = 2**63 - 1
_MAX_INFLATED = 10 * 2**20  # net_http/compression/gzip_zlib.h

_JSON, _HTML = "application/json", "text/html; charset=utf-8"
_NOT_FOUND = (
    b"<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>\n"
)
_CORS = [
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
]
# The page may ask nobody but this server.
_PAGE_POLICY = (
    "Content-Security-Policy",
    (
        "default-src 'none'; connect-src 'self'; img-src blob: data:; script-src 'unsafe-inline'; "
        "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
)

# http_server.cc; every other code is 500.
_HTTP = {
    grpc.StatusCode.CANCELLED: "499 Client Closed Request",
    grpc.StatusCode.INVALID_ARGUMENT: "400 Bad Request",
    grpc.StatusCode.FAILED_PRECONDITION: "400 Bad Request",
    grpc.StatusCode.OUT_OF_RANGE: "400 Bad Request",
    grpc.StatusCode.UNAUTHENTICATED: "401 Unauthorized",
    grpc.StatusCode.PERMISSION_DENIED: "403 Forbidden",
    grpc.StatusCode.NOT_FOUND: "404 Not Found",
    grpc.StatusCode.ALREADY_EXISTS: "409 Conflict",
    grpc.StatusCode.ABORTED: "409 Conflict",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "429 Too Many Requests",
    grpc.StatusCode.UNIMPLEMENTED: "501 Not Implemented",
    grpc.StatusCode.UNAVAILABLE: "503 Service Unavailable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "504 Gateway Timeout",
}

# By the method on tf.Examples: its request, and what writes its result.
_ON_EXAMPLES: dict[str, tuple[Any, Callable[..., bytes]]] = {
    "classify": (ClassificationRequest, rest_json.dump_classes),
    "regress": (RegressionRequest, rest_json.dump_numbers),
}

_Environ = dict[str, Any]

_log = logging.getLogger(__name__)


class RestApi:
    """The WSGI application."""

    def __init__(
        self,
        handlers: Handlers,
        flags: Flags,
        metrics_path: str = "",
    ) -> None:
        """Takes what answers.

        Args:
            handlers: see there.
            flags: what they say about REST.
            metrics_path: where Prometheus reads; empty for nowhere.
        """
        self._handlers = handlers
        # None: no limit.
        self._timeout_s = max(0, flags.rest_api_timeout_in_ms) / 1000 or None
        self._metrics_path = metrics_path
        self._cors = _CORS if flags.rest_api_enable_cors_support else []
        page = Path(__file__).with_name("demo_page.html")
        self._page = page.read_bytes() if flags.demo_page else None

    def __call__(self, environ: _Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        """Answers one request."""
        # With what follows a question mark, as in the real server: there it makes no path that is
        # known.
        path = environ["REQUEST_URI"]
        api = path.lower().startswith("/v1/")
        try:
            if api:
                status, headers, body = self._v1(environ, path)
            else:
                status, headers, body = self._own(environ["REQUEST_METHOD"], path.partition("?")[0])
        except StatusError as error:
            status, headers, body = _failed(error)
        except Exception:
            _log.exception("REST request failed by a defect of the server")
            status, headers, body = _failed(internal("internal error; see the log"))
        headers = [*headers, *(self._cors if api else [])]
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _own(self, method: str, path: str) -> tuple[str, list[tuple[str, str]], bytes]:
        if method in ("GET", "HEAD") and path == "/" and self._page is not None:
            return "200 OK", [("Content-Type", _HTML), _PAGE_POLICY], self._page
        if method == "GET" and path == self._metrics_path:
            return (
                "200 OK",
                [("Content-Type", "text/plain")],
                self._handlers.metrics.page().encode(),
            )
        if method in ("GET", "HEAD") and path in ("/healthz", "/readyz"):
            without = self._handlers.manager.unavailable() if path == "/readyz" else []
            if without:
                names = ", ".join(without)
                raise unavailable(f"No version is available of model(s): {names}")
            return "200 OK", [("Content-Type", _JSON)], b'{"status": "ok"}'
        return "404 Not Found", [("Content-Type", _HTML)], _NOT_FOUND

    def _v1(self, environ: _Environ, path: str) -> tuple[str, list[tuple[str, str]], bytes]:
        if environ["REQUEST_METHOD"] == "OPTIONS":
            known = re.search("https?://", environ.get("HTTP_ORIGIN", ""))
            return "200 OK" if known else "400 Bad Request", [], b""
        with self._handlers.metrics.request("REST") as counted:
            return "200 OK", [("Content-Type", _JSON)], self._answer(environ, path, counted)

    def _answer(self, environ: _Environ, path: str, counted: Request) -> bytes:
        method = environ["REQUEST_METHOD"]
        match = (
            {"POST": _POST, "GET": _GET}[method].fullmatch(path)
            if method in ("POST", "GET")
            else None
        )
        if match is None or (method == "POST" and not match["method"].islower()):
            raise invalid_argument(f"Malformed request: {method} {path}")
        spec = _model_spec(match)
        action = match["method"]
        counted.model, counted.api = spec.name, action if method == "POST" else ""
        if method == "GET" and not spec.name:
            if action or match["version"] or match["label"]:
                raise invalid_argument("Missing model name in request.")
            return self._models()
        if method == "GET":
            # Written otherwise than so, the real server answers with the status.
            return self._metadata(spec) if action == "metadata" else _dump(self._status(spec))
        document = rest_json.parse(_body(environ))
        if action == "predict":
            return self._predict(document, spec)
        kind, dump = _ON_EXAMPLES[action]
        request = kind(model_spec=spec)
        rest_inputs.fill(document, request)
        return dump(self._handlers.infer(request, self._timeout_s).result)

    def _predict(self, document: dict[str, Any], spec: ModelSpec) -> bytes:
        signature_name = document.get("signature_name") or DEFAULT_SIGNATURE
        spec.signature_name = signature_name
        with self._handlers.lend(spec) as servable:
            if signature_name not in servable.signatures:
                raise invalid_argument(
                    f'Serving signature name: "{signature_name}" not found in signature def'
                )
            signature = servable.signatures[signature_name]
            dtypes = {alias: signature.inputs[alias].dtype for alias in sorted(signature.inputs)}
            if not dtypes:
                raise invalid_argument(
                    "Failed to get input map for signature:"
                    f" {document.get('signature_name') or 'DEFAULT'}"
                )
            if isinstance(rows := document.get("instances"), list):
                # Before they are arrays, which takes seconds for millions of them.
                pictures = tf.string.as_datatype_enum in dtypes.values()
                self._handlers.limits.check_rows(len(rows), pictures=pictures)
            arrays = rest_inputs.inputs(document, dtypes)
            run = self._handlers.runner(servable, self._timeout_s)
            outputs = run_signature(signature, arrays, (), run)
        return rest_json.dump_outputs(outputs, by_row="instances" in document)

    def _status(self, spec: ModelSpec) -> GetModelStatusResponse:
        return self._handlers.model_status(GetModelStatusRequest(model_spec=spec))

    def _metadata(self, spec: ModelSpec) -> bytes:
        response = self._handlers.metadata(
            GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        )
        signatures = SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        parts = {
            "model_spec": _as_dict(response.model_spec),
            "metadata": {"signature_def": _as_dict(signatures)},
        }
        return json.dumps(parts, indent=1).encode("utf-8")

    def _models(self) -> bytes:
        models = []
        for name in self._handlers.manager.names():
            try:
                status = _as_dict(self._status(ModelSpec(name=name)))
            except StatusError:
                # Nothing has been found of it yet.
                status = {"model_version_status": []}
            models.append({"name": name, **status})
        return json.dumps({"models": models}, indent=1).encode("utf-8")


def _model_spec(match: re.Match[str]) -> ModelSpec:
    spec = ModelSpec(name=unquote(match["name"] or ""))
    if match["label"]:
        spec.version_label = unquote(match["label"])
    if match["version"]:
        digits = match["version"].lstrip("0") or "0"
        if len(digits) > len(str(_MAX_VERSION)) or int(digits) > _MAX_VERSION:
            raise invalid_argument(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(digits)
    return spec


def _failed(error: StatusError) -> tuple[str, list[tuple[str, str]], bytes]:
    body = json.dumps({"error": error.message}, indent=4).encode("utf-8")
    return _HTTP.get(error.code, "500 Internal Server Error"), [("Content-Type", _JSON)], body


def _body(environ: _Environ) -> bytes:
    body: bytes = environ["wsgi.input"].read()
    if "gzip" not in environ.get("HTTP_CONTENT_ENCODING", ""):
        return body
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        body = inflater.decompress(body, _MAX_INFLATED + 1)
    except zlib.error:
        return b""
    # The real server too goes on with an empty body where it cannot inflate one.
    return body if inflater.eof and len(body) <= _MAX_INFLATED else b""


def _as_dict(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return fields


def _dump(message: Message) -> bytes:
    return json.dumps(_as_dict(message), indent=1).encode("utf-8")

"""A server that does nothing: it answers every request with the same bytes, and neither reads nor
builds messages.

  python -m benchmarks.echo --port=8500 --answer=file

With --metadata it also says what the model's signatures are, and with --rest_api_port and
--rest_answer it does the same over HTTP. What is left of a request's time is gRPC in Python.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import grpc
from absl import flags

from benchmarks.load import GRPC_METHOD
from whisker_ml import cli

_THREADS = 32  # as many as clients at most


def main() -> None:
    """Entry point."""
    here = sys.argv[0]
    flags.DEFINE_integer("port", None, "to listen on", required=True, module_name=here)
    flags.DEFINE_string(
        "answer", None, "file that holds the answer", required=True, module_name=here
    )
    flags.DEFINE_string(
        "metadata", None, "file that holds the answer about signatures", module_name=here
    )
    flags.DEFINE_integer("rest_api_port", None, "to listen on for HTTP too", module_name=here)
    flags.DEFINE_string("rest_answer", None, "file that holds the answer to it", module_name=here)
    cli.run(_serve)


def _serve(_: Sequence[str]) -> None:
    service, _, name = GRPC_METHOD.removeprefix("/").partition("/")
    server = grpc.server(ThreadPoolExecutor(_THREADS))
    methods = {name: _handler(flags.FLAGS.answer)}
    if flags.FLAGS.metadata:
        methods["GetModelMetadata"] = _handler(flags.FLAGS.metadata)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    server.add_insecure_port(f"127.0.0.1:{flags.FLAGS.port}")
    if flags.FLAGS.rest_api_port:
        rest = _rest(flags.FLAGS.rest_api_port, Path(flags.FLAGS.rest_answer).read_bytes())
        Thread(target=rest.serve_forever, daemon=True).start()
    server.start()
    server.wait_for_termination()


def _handler(file: str) -> grpc.RpcMethodHandler:
    answer = Path(file).read_bytes()
    return grpc.unary_unary_rpc_method_handler(lambda *_: answer)


def _rest(port: int, answer: bytes) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    main()

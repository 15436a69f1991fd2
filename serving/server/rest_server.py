"""The HTTP server under the REST API, on waitress: what a connection and a request may take."""

import re
import threading
import time
from collections import Counter
from typing import Any

import waitress
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.task import ErrorTask, ThreadedTaskDispatcher
from waitress.utilities import RequestEntityTooLarge

from serving.server.flags import Flags
from serving.server.rest import RestApi
from serving.server.status import unavailable
from whisker_ml.machine import available_processors

# Connections that wait are cheap: each thread answers one. One more than these waits for its turn.
_MAX_CONNECTIONS = 4096
# Between two looks at all connections.
_SWEEP_S = 0.1
# Without a request in that time the loop looks at the connections all the same.
_IDLE_S = 1.0
_PROBE_THREADS = 2
_SCHEME_AND_HOST = re.compile("[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")


class RestServer:
    """The listening socket, the loop that reads and writes, and the threads that answer."""

    def __init__(self, api: RestApi, host: str, port: int, flags: Flags) -> None:
        """Binds the port (0: a free one) and listens; answers come after `start`.

        Raises:
            StatusError: UNAVAILABLE, the port cannot be bound.
        """
        sockets: dict[int, Any] = {}
        self._arrival_s = flags.request_arrival_timeout_in_ms / 1000
        self._most_of_a_peer = flags.max_connections_per_peer
        dispatcher = _Dispatcher(flags.rest_api_num_threads or 4 * available_processors())
        try:
            self._server = waitress.create_server(
                api,
                sockets,
                _dispatcher=dispatcher,
                host=host,
                port=port,
                ident="whisker",
                connection_limit=_MAX_CONNECTIONS,
                # A client that does not read must hold no thread; answers wait in files.
                outbuf_high_watermark=2**40,
                # It refuses a body of this very size.
                max_request_body_size=flags.max_json_bytes + 1,
            )
        except (OSError, OverflowError, ValueError) as error:
            dispatcher.shutdown(timeout=1)
            wasyncore.close_all(sockets, ignore_all=True)
            raise unavailable(
                f"cannot listen for REST on {host}:{port}: {error}; choose another --rest_api_port"
            ) from error
        self._server.channel_class = _Channel
        self.port = int(self._server.effective_port)
        self._stop_at: float | None = None
        self._next_sweep = 0.0
        self._thread = threading.Thread(target=self._loop, name="rest", daemon=True)

    def start(self) -> None:
        """Starts to answer."""
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Takes no new connections, finishes the requests that are there within `grace_s`, and
        closes.
        """
        self._stop_at = time.monotonic() + grace_s
        self._server.pull_trigger()
        self._thread.join()

    def _loop(self) -> None:
        # With poll: select, waitress' default, fails once the process has 1,024 open files.
        server = self._server
        while self._stop_at is None:
            wasyncore.loop(timeout=_IDLE_S, use_poll=True, map=server._map, count=1)
            self._close_late_and_crowding()
        # waitress has no graceful stop: the listening socket goes first, the channels when they are
        # idle.
        server.del_channel()
        server.socket.close()
        while self._busy() and time.monotonic() < self._stop_at:
            wasyncore.loop(timeout=0.05, use_poll=True, map=server._map, count=1)
        server.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(server._map, ignore_all=True)

    def _close_late_and_crowding(self) -> None:
        """Closes connections whose request takes too long to arrive, and of a peer with too many
        the one that was idle for longest.
        """
        now = time.monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + _SWEEP_S
        channels = list(self._server.active_channels.values())
        for channel in channels:
            if channel.arriving_since(now) < now - self._arrival_s:
                channel.handle_close()
        peers = Counter(channel.addr[0] for channel in channels)
        if max(peers.values(), default=0) <= self._most_of_a_peer:
            return
        for channel in sorted(channels, key=lambda channel: channel.last_activity):
            peer = channel.addr[0]
            if peers[peer] > self._most_of_a_peer and not channel.requests:
                peers[peer] -= 1
                channel.handle_close()

    def _busy(self) -> bool:
        channels = list(self._server.active_channels.values())
        return any(channel.requests or channel.total_outbufs_len for channel in channels)


class _ErrorTask(ErrorTask):
    def execute(self) -> None:
        error = self.request.error
        if isinstance(error, RequestEntityTooLarge):
            most = self.channel.adj.max_request_body_size - 1
            error.body = f"The body has more than {most} bytes (--max_json_bytes of this server)"
        super().execute()


class _Parser(HTTPRequestParser):
    request_uri: str

    def parse_header(self, header_plus: bytes) -> None:
        """Leaves scheme and host out of a request target in absolute form."""
        super().parse_header(header_plus)
        if found := _SCHEME_AND_HOST.match(self.request_uri):
            path = self.request_uri[found.end() :]
            self.request_uri = path if path.startswith("/") else f"/{path}"


class _Channel(HTTPChannel):
    parser_class = _Parser
    error_task_class = _ErrorTask
    _arriving: tuple[Any, float] = (None, 0)

    def arriving_since(self, now: float) -> float:
        """Gives when the request that has not arrived wholly was first seen; `now` if none is, or
        if it is not read, as the one before it is being answered.
        """
        if self.request is None or self.requests:
            return now
        if self._arriving[0] is not self.request:
            self._arriving = (self.request, now)
        return self._arriving[1]


class _Dispatcher(ThreadedTaskDispatcher):
    """Gives requests to threads; probes have theirs, and never wait behind models."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.set_thread_count(threads)
        self._probes = ThreadedTaskDispatcher()
        self._probes.set_thread_count(_PROBE_THREADS)

    def add_task(self, task: Any) -> None:
        request = task.requests[0]
        if request.error or request.request_uri.lower().startswith("/v1/"):
            super().add_task(task)
        else:
            self._probes.add_task(task)

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        self._probes.shutdown(cancel_pending, timeout)
        return bool(super().shutdown(cancel_pending, timeout))

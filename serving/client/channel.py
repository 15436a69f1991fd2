"""How the client connects: every channel option, with its reason, in one table."""

import asyncio
import json
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import grpc

from serving.client.errors import InvalidRequest, NotAllowed
from whisker_ml.errors import MissingExtra
from whisker_ml.machine import is_this_machine

# Who the client is and whom it trusts: TLS, a certificate of its own, bearer tokens.

Token = str | Callable[[], str]


@dataclass(frozen=True)
class Tls:
    """How a connection is checked and encrypted.

    Attributes:
        ca: PEM file of the certificates that the server's may be signed with; None: those that gRPC
            comes with.
        certificate: PEM file of the client's own certificate, where the server asks for one (mTLS).
        key: PEM file of the private key that belongs to it.
        server_name: the name in the server's certificate, where it is reached by another one.
    """

    ca: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None
    server_name: str | None = None


class IdentityToken:
    """A token that says who this program is, renewed before it ends; for the client's argument
    `token`.

    For a server behind Google's identity, such as one on Cloud Run; needs the extra `identity`. The
    account is the one that GOOGLE_APPLICATION_CREDENTIALS names, or that of the machine in the
    cloud.
    """

    def __init__(self, audience: str) -> None:
        """Asks nothing yet.

        Args:
            audience: for whom the token is, as the server expects it: on Cloud Run the URL of the
                service.

        Raises:
            MissingExtra: google-auth is not installed.
        """
        try:
            from google.auth.exceptions import GoogleAuthError
            from google.auth.transport.requests import Request
            from google.oauth2.id_token import fetch_id_token_credentials
        except ImportError as error:
            raise MissingExtra("google-auth", "identity") from error
        self._error, self._request = GoogleAuthError, Request
        self._fetch = fetch_id_token_credentials
        self._audience = audience
        self._credentials: Any = None
        self._lock = Lock()

    def __call__(self) -> str:
        """Gives the token, a new one where the last is about to end.

        Raises:
            NotAllowed: nobody vouches for this program.
        """
        with self._lock:
            try:
                if self._credentials is None:
                    self._credentials = self._fetch(self._audience, self._request())
                if not self._credentials.valid:
                    self._credentials.refresh(self._request())
            except self._error as error:
                raise NotAllowed(
                    f"no identity token for {self._audience}: {' '.join(str(error).split())}; run"
                    " in Google Cloud, or let GOOGLE_APPLICATION_CREDENTIALS name the key file of"
                    " a service account"
                ) from error
            return str(self._credentials.token)


def _credentials(tls: Tls | None, token: Token | None, addresses: Sequence[str]) -> Any:
    """Gives gRPC's credentials, or None for plaintext without a token.

    Args:
        tls: None: plaintext.
        token: without the word Bearer; a function is called for every request, in a thread of
            gRPC's own.
        addresses: of the servers: over plaintext a token goes to this very machine only.

    Raises:
        InvalidRequest: a file that cannot be used, or a token that would travel in the open.
    """
    if tls is None and token is None:
        return None
    if tls is not None:
        transport = grpc.ssl_channel_credentials(*_pem_texts(tls))
    elif is_this_machine(addresses):
        transport = grpc.local_channel_credentials()
    else:
        raise InvalidRequest(
            f"a token for {', '.join(addresses)} without TLS: anyone on the way could read it, and"
            " gRPC refuses to send it to another machine; give tls=Tls(…)"
        )
    if token is None:
        return transport

    def add_token(_: Any, callback: Any) -> None:
        # gRPC turns what this raises into the status of the call.
        bearer = token if isinstance(token, str) else token()
        callback((("authorization", f"Bearer {bearer}"),), None)

    return grpc.composite_channel_credentials(transport, grpc.metadata_call_credentials(add_token))


def _pem_texts(tls: Tls) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Reads what `grpc.ssl_channel_credentials` takes; gRPC would say of bad PEM text only that
    nothing connects.
    """
    if (tls.certificate is None) != (tls.key is None):
        raise InvalidRequest("tls: certificate and key belong together: expected both or neither")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    source = str(tls.ca)
    try:
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
        if tls.certificate is not None and tls.key is not None:
            source = f"{tls.certificate} (or {tls.key}, its unencrypted private key)"
            # An empty password, or OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(tls.certificate, tls.key, password="")
    except OSError as error:
        reason = error.strerror
        if isinstance(error, ssl.SSLError):
            reason = "not the PEM text that is expected"
        raise InvalidRequest(f"tls: {source}: {reason}") from error
    ca, key, certificate = (
        None if path is None else Path(path).read_bytes()
        for path in (tls.ca, tls.key, tls.certificate)
    )
    return ca, key, certificate


Server = str | Sequence[str]

# Retries: gRFC A6 (https://github.com/grpc/proposal/blob/master/A6-client-retries.md). UNAVAILABLE
# says that the request may work elsewhere or later, and so does CANCELLED where nobody here has
# cancelled: grpcio answers it to calls that arrive while a server stops (grpc/grpc#41785).
# Prediction and status change nothing on the server, so repeating them is safe.
# HandleReloadConfigRequest is not listed and so never repeated.
_SERVICE_CONFIG = {
    # The default, pick_first, sends everything to one of the addresses that a name has.
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [
                {"service": "tensorflow.serving.PredictionService"},
                {"service": "tensorflow.serving.ModelService", "method": "GetModelStatus"},
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
    # A server that is in trouble is not asked four times as much: a failed attempt takes one token,
    # an answer gives half of one back, and with half of them left nothing is retried. One lost
    # connection fails every request that is on it, hence more tokens than twice those, and more
    # back than the usual tenth: with 8 on their way and a fault in every 20th, a fifth of all
    # requests failed for want of tokens, and a hundredth like this (measured on loopback).
    "retryThrottling": {"maxTokens": 200, "tokenRatio": 0.5},
}

# Names and defaults: grpc/grpc, include/grpc/impl/channel_arg_names.h.
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_send_message_length", -1),  # No limit.
    # A request is retried only if it fits in here. The default of 256 KiB is less than many a
    # picture.
    ("grpc.per_rpc_retry_buffer_size", 64 * 1024 * 1024),
    # The default of 120 s leaves a client blind for minutes to a server that has come up.
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Servers close connections that ping more often than every 300 s without data (grpc.http2.
    # min_ping_interval_without_data_ms; grpc/grpc, doc/keepalive.md). Google Cloud forgets
    # connections that were idle for 600 s (its documentation of VPC firewall rules). Between the
    # two, and also while nothing is asked.
    ("grpc.keepalive_time_ms", 360_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # By default channels to one address share their connection, and a forked child's would be its
    # parent's.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
)


# Of one answer, decompressed, unless a client is told otherwise.
MAX_ANSWER_BYTES = 64 << 20


def open_channel(
    server: Server,
    *,
    tls: Tls | None = None,
    token: Token | None = None,
    interceptors: Sequence[Any] = (),
    max_answer_bytes: int = MAX_ANSWER_BYTES,
    asynchronous: bool = False,
) -> Any:
    """Opens a channel; the connection itself is made at the first call.

    Args:
        server: ``host:port``, any gRPC name such as ``dns:///models:8500``, or several
            ``host:port``, which are asked in turn. The names in such a list are resolved here and
            now; those of ``dns:///`` again and again.
        tls: how to check and encrypt; None: plaintext.
        token: a bearer token for every call.
        interceptors: of gRPC, or of grpc.aio, for calls with one request and one answer.
        max_answer_bytes: of one answer, decompressed; a longer one is refused before it is in
            memory. Up to 2^31 - 1, which is protobuf's own limit.
        asynchronous: whether the channel is one of grpc.aio, in the running event loop.

    Returns:
        A grpc.Channel or a grpc.aio.Channel.

    Raises:
        InvalidRequest: an address that cannot be used, a file of `tls`, a token that would travel
            in the open, no size of an answer, or no event loop.
    """
    addresses = [server] if isinstance(server, str) else list(server)
    if not all(addresses) or not addresses:
        raise InvalidRequest(f"server is {server!r}: expected host:port of the server's gRPC port")
    for address in addresses:
        if address.startswith(("http://", "https://")):
            raise InvalidRequest(
                f"server is {address!r}: expected host:port of the server's gRPC port, without"
                f" {address.partition('//')[0]}//"
            )
    if not 0 < max_answer_bytes < 1 << 31:
        raise InvalidRequest(f"max_answer_bytes is {max_answer_bytes}: expected 1 to 2147483647")
    options = [*_OPTIONS, ("grpc.max_receive_message_length", max_answer_bytes)]
    if tls is not None and (tls.server_name or not isinstance(server, str)):
        # Of a list gRPC would compare the addresses, not the names, with the certificate.
        options.append(
            ("grpc.ssl_target_name_override", tls.server_name or addresses[0].rpartition(":")[0])
        )
    if is_this_machine(addresses):
        # gRPC would go through the proxy of http_proxy even so, which knows another loopback, or
        # reads the token.
        options.append(("grpc.enable_http_proxy", 0))
    target = server if isinstance(server, str) else _resolve(addresses)
    credentials = _credentials(tls, token, addresses)
    library: Any = grpc
    more: dict[str, Any] = {"options": options}
    if asynchronous:
        try:
            asyncio.get_running_loop()
        except RuntimeError as error:
            raise InvalidRequest(
                "no event loop is running: make an AsyncPredictClient inside a coroutine"
            ) from error
        library, more["interceptors"] = grpc.aio, list(interceptors)
    if credentials is None:
        channel = library.insecure_channel(target, **more)
    else:
        channel = library.secure_channel(target, credentials, **more)
    return channel if asynchronous else grpc.intercept_channel(channel, *interceptors)


def _resolve(addresses: list[str]) -> str:
    """Makes one gRPC name of several ``host:port``: gRPC takes lists of numeric addresses of one
    family only.
    """
    for family, scheme, form in (
        (socket.AF_INET, "ipv4", "{}:{}"),
        (socket.AF_INET6, "ipv6", "[{}]:{}"),
    ):
        try:
            found = [
                socket.getaddrinfo(host.strip("[]"), port, family, socket.SOCK_STREAM)[0][4]
                for host, _, port in (address.rpartition(":") for address in addresses)
            ]
        except OSError:
            continue
        return f"{scheme}:{','.join(form.format(*place) for place in found)}"
    raise InvalidRequest(
        f"server is {addresses}: expected host:port each, all with IPv4 or all with IPv6 addresses"
    )

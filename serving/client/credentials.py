"""Who the client is and whom it trusts: TLS, a certificate of its own, bearer tokens."""

import re
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from serving.client.errors import InvalidRequest

Token = str | Callable[[], str]

_LOOPBACK = re.compile(
    r"((dns:///|ipv4:)?(localhost|127(\.\d+){3})|(ipv6:)?\[::1\])(:\d+)?|unix:.*"
)


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


def channel_credentials(tls: Tls | None, token: Token | None, addresses: Sequence[str]) -> Any:
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
    elif all(_LOOPBACK.fullmatch(one) for address in addresses for one in address.split(",")):
        transport = grpc.local_channel_credentials()
    else:
        raise InvalidRequest(
            f"a token for {', '.join(addresses)} without TLS: anyone on the way could read it, and"
            " gRPC refuses to send it to another machine; give tls=Tls(…)"
        )
    if token is None:
        return transport
    of_call = (
        grpc.access_token_call_credentials(token)
        if isinstance(token, str)
        else _from_function(token)
    )
    return grpc.composite_channel_credentials(transport, of_call)


def _from_function(token: Callable[[], str]) -> Any:
    class Plugin(grpc.AuthMetadataPlugin):
        def __call__(self, _: Any, callback: Any) -> None:
            # gRPC turns what this raises into the status of the call.
            callback((("authorization", f"Bearer {token()}"),), None)

    return grpc.metadata_call_credentials(Plugin())


def _pem_texts(tls: Tls) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Reads what `grpc.ssl_channel_credentials` takes; gRPC would say of bad PEM text only that
    nothing connects.
    """
    if (tls.certificate is None) != (tls.key is None):
        raise InvalidRequest("tls: certificate and key belong together: expected both or neither")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    path: str | Path | None = tls.ca
    try:
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
        path = tls.certificate
        if tls.certificate is not None and tls.key is not None:
            # An empty password, or OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(tls.certificate, tls.key, password="")
    except OSError as error:  # ssl.SSLError is one.
        reason = (
            "not the PEM text that is expected"
            if isinstance(error, ssl.SSLError)
            else error.strerror
        )
        also = f" (or {tls.key}, its unencrypted private key)" if path is not tls.ca else ""
        raise InvalidRequest(f"tls: {path}{also}: {reason}") from error
    ca, key, certificate = (
        path and Path(path).read_bytes() for path in (tls.ca, tls.key, tls.certificate)
    )
    return ca or None, key or None, certificate or None

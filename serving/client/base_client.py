"""What both clients are made of, and when neither may be used."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import grpc

from serving.client import errors
from serving.client.channel import Server
from serving.client.credentials import Tls, Token
from serving.client.dialogue import METHODS, Dialogue
from serving.protos import message
from whisker_ml import contract


class BaseClient(ABC):
    """A channel, the methods on it, and what has been learned of the model."""

    def __init__(
        self,
        server: Server = contract.DEFAULT_SERVER,
        model_name: str = contract.DEFAULT_MODEL_NAME,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = contract.SIGNATURE_BYTES,
        timeout_s: float = 10.0,
        tls: Tls | None = None,
        token: Token | None = None,
        interceptors: Sequence[Any] = (),
    ) -> None:
        """Prepares the connection; nothing is sent yet.

        Args:
            server: ``host:port`` of the gRPC port, another gRPC name, or several ``host:port`` that
                are asked in turn (see `open_channel`).
            model_name: as the server knows it.
            version: ask this version; None asks the newest that is loaded.
            label: ask the version that has this label, such as `contract.STABLE_LABEL`.
            signature: the one that pictures as bytes are sent to; pixels go to
                `contract.SIGNATURE_PIXELS`.
            timeout_s: how long one call may take, retries included. The first picture that a
                version gets takes two calls, as its signatures are asked for before.
            tls: how to check and encrypt the connection; None: plaintext.
            token: a bearer token, or a function that gives one for every call; needs `tls` except
                to this machine.
            interceptors: of gRPC, for unary-unary calls; for `AsyncPredictClient` those of
                grpc.aio. They see requests as bytes, ready for the wire, and answers as messages.

        Raises:
            InvalidRequest: both version and label, a timeout that is not above 0, or an argument
                that the channel cannot use.
        """
        self._server = server if isinstance(server, str) else ",".join(server)
        self._dialogue = Dialogue(self._server, model_name, version, label, signature)
        if timeout_s <= 0:
            raise errors.InvalidRequest(f"timeout_s is {timeout_s}: it must be above 0 seconds")
        self._timeout_s = timeout_s
        self._process = os.getpid()
        self._closed = False
        self._channel = self._open(server, tls=tls, token=token, interceptors=interceptors)
        self._methods = {
            path: self._channel.unary_unary(
                f"/tensorflow.serving.{path}",
                response_deserializer=message(f"tensorflow.serving.{response}").FromString,
            )
            for path, response in METHODS.items()
        }

    @abstractmethod
    def _open(self, server: Server, **options: Any) -> Any:
        """Opens a channel; options are those of `open_channel`."""

    def _method(self, path: str) -> Any:
        """Gives the call, where it can end.

        Raises:
            InvalidRequest: the client is closed, or belongs to the process that this one was forked
                from.
        """
        if self._process != os.getpid():
            raise errors.InvalidRequest(
                f"this client was made by process {self._process} and this is {os.getpid()}, forked"
                " from it: a connection does not survive that; make a client here, after the fork"
            )
        if self._closed:
            raise errors.InvalidRequest("this client is closed: make another one")
        return self._methods[path]

    def _error(self, error: grpc.RpcError | grpc.FutureCancelledError) -> errors.ClientError:
        if isinstance(error, grpc.RpcError):
            return errors.from_rpc_error(error, self._server)
        return self._closed_meanwhile()

    def _closed_meanwhile(self) -> errors.ClientError:
        return errors.ClientError(f"{self._server}: the client was closed before the answer came")


def check_concurrency(concurrency: int) -> None:
    """Refuses a concurrency with which nothing would ever be asked.

    Raises:
        InvalidRequest: below 1.
    """
    if concurrency < 1:
        raise errors.InvalidRequest(f"concurrency is {concurrency}: it must be at least 1")

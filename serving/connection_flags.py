"""Flags of the commands that ask a running server: how to trust it, and what tells it who asks; for
entry points.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from whisker_ml import cli
from whisker_ml.errors import WrongUse


def define() -> None:
    """Defines the flags, as flags of the running command."""
    for name, text in (
        (
            "tls_ca",
            "use TLS, and trust what the certificates in this PEM file sign; the word default"
            " instead of a file: those that gRPC brings",
        ),
        ("tls_certificate", "PEM file with this client's own certificate, if the server needs one"),
        ("tls_key", "PEM file with the private key of --tls_certificate"),
        ("token_file", "file with a bearer token, read again for each request"),
    ):
        cli.define(name, None, text, group="Connection")


def security() -> dict[str, Any]:
    """Gives what the parsed flags ask for, as the arguments `tls` and `token` of `open_channel` and
    of the clients.

    Raises:
        WrongUse: the file of the token cannot be read.
    """
    from serving.client.channel import Tls

    values = flags.FLAGS
    ca, certificate, key = values.tls_ca, values.tls_certificate, values.tls_key
    return {
        "tls": Tls(None if ca == "default" else ca, certificate, key)
        if ca or certificate or key
        else None,
        "token": _token(Path(values.token_file)) if values.token_file else None,
    }


def _token(file: Path) -> Callable[[], str]:
    def read() -> str:
        try:
            return file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise WrongUse(f"--token_file={file}: cannot be read: {error.strerror}") from error

    read()
    return read

"""The file of --ssl_config_file: TLS on the gRPC port. REST stays plain, in TensorFlow Serving too.

The file holds the PEM text of keys and certificates itself, not paths to it, and so is a secret.
"""

import re
from pathlib import Path

from serving.config import text_file
from serving.config.text_file import ConfigError, Message
from serving.protos import message

KIND = "SSLConfig"

# Field, and what stands in the first line of its PEM text (RFC 7468; keys also PKCS#1 and SEC 1).
_PEM = (("server_key", "PRIVATE KEY"), ("server_cert", "CERTIFICATE"), ("custom_ca", "CERTIFICATE"))


def make(
    server_key: str | Path, server_cert: str | Path, client_ca: str | Path | None = None
) -> Message:
    """Makes a tensorflow.serving.SSLConfig out of PEM files.

    Args:
        server_key: the server's private key.
        server_cert: its certificate, then those in between up to the root.
        client_ca: where it is given, clients have to show a certificate that one of these signed.

    Raises:
        ConfigError: a file cannot be read, or does not hold what it should.
    """
    config = message(f"tensorflow.serving.{KIND}")(client_verify=client_ca is not None)
    for (field, _), path in zip(_PEM, (server_key, server_cert, client_ca), strict=True):
        if path is not None:
            try:
                setattr(config, field, Path(path).read_text(encoding="ascii"))
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "is no text"
                raise ConfigError(f"{path}: {reason}: expected a PEM file for {field}") from error
    check(config, KIND)
    return config


def read(path: str | Path) -> Message:
    """Reads and checks a file.

    Raises:
        ConfigError: it cannot be read, is no text SSLConfig, or is refused by `check`; quotes none
            of it.
    """
    config = text_file.read(path, KIND, quote=False)
    check(config, str(path))
    return config


def write(path: str | Path, config: Message) -> None:
    """Writes the file, whole or not at all, for nobody but its owner to read: it holds a private
    key.

    Raises:
        ConfigError: the file cannot be written; what was there stays.
    """
    text_file.write(path, config, mode=0o600)


def check(config: Message, source: str) -> None:
    """Refuses what no TLS handshake can work with.

    Args:
        config: a tensorflow.serving.SSLConfig.
        source: where it comes from, for the error.

    Raises:
        ConfigError: key or certificate is missing or no PEM text, or clients are to be verified
            against nothing.
    """
    for field, label in _PEM:
        value = getattr(config, field)
        if not value and field == "custom_ca":
            continue
        if not re.search(
            rf"-----BEGIN ([A-Z0-9]+ )*{label}-----.*-----END ([A-Z0-9]+ )*{label}-----",
            value,
            re.DOTALL,
        ):
            found = "missing" if not value else "PEM text of something else"
            if value and "-----BEGIN " not in value:
                # One line without a header is nearly always a path. It is not shown, as it could be
                # a key.
                found = "a path" if "\n" not in value.strip() else "no PEM text"
            raise ConfigError(
                f"{source}: {field} is {found}: expected the PEM text itself, from -----BEGIN …"
                f" {label}----- to its END line; serving.config.tls.make puts the files' text there"
            )
    if config.client_verify and not config.custom_ca:
        raise ConfigError(
            f"{source}: client_verify is true without a custom_ca: give the certificates that"
            " clients' are signed with"
        )

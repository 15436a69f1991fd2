"""Configuration files of TensorFlow Serving, in protobuf's text format: made, read, written and
checked through its own messages.

``batching``, ``monitoring`` and ``tls`` are the files of the servers' flags, each with `make`,
`read`, `write` and `check`: ``batching.write("batching.config", batching.make(max_batch_size=32))``
writes one. `serving.config.models_config` is models.config.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format

from serving.protos import message
from whisker_ml import files
from whisker_ml.errors import WhiskerError

# A protobuf message; its class is made at run time, so that no type checker knows its fields.
Message = Any


class ConfigError(WhiskerError):
    """A configuration file cannot be read or written, or says what TensorFlow Serving would
    refuse.
    """


def parse_text(text: str | bytes, source: str, kind: str, *, quote: bool = True) -> Message:
    """Reads a message.

    Args:
        text: the file's content; empty is a message without fields.
        source: where it comes from, for the error.
        kind: name of the message in the package `tensorflow.serving`.
        quote: whether the error may quote the text; False where it holds a secret.

    Raises:
        ConfigError: it is no such message.
    """
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        return text_format.Parse(decoded, message(f"tensorflow.serving.{kind}")())
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8"
    except text_format.ParseError as error:
        # The parser puts the place, and then often the whole line, before the reason.
        reason = re.sub(r"^(\d+:\d+) : ('.*': )?", r"\1: ", " ".join(str(error).split()))
        if not quote:
            reason = reason.partition(": ")[0]
    raise ConfigError(
        f"{source} is not a {kind} ({reason}): expected protobuf's text format; fix it, or move it"
        " away; it has not been changed"
    )


def render(config: Message) -> str:
    """Writes a message as the text that `parse_text` and TensorFlow Serving read."""
    return text_format.MessageToString(config)


@dataclass(frozen=True)
class ConfigFile:
    """One kind of file that a flag of the server names.

    Attributes:
        kind: name of its message in the package `tensorflow.serving`.
        make: makes the message; raises a ConfigError for what `check` refuses.
        check: called with a message, of whatever pool, and where it comes from; raises a
            ConfigError for what no server can work with.
        secret: its content is for the owner alone, and no error quotes it.
    """

    kind: str
    make: Callable[..., Message]
    check: Callable[[Message, str], None]
    secret: bool = False

    def read(self, path: str | Path) -> Message:
        """Reads and checks a file.

        Raises:
            ConfigError: it cannot be read, holds no such message, or is refused by `check`.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{path}: {error.strerror}: expected a text {self.kind}; name another file"
            ) from error
        config = parse_text(content, str(path), self.kind, quote=not self.secret)
        self.check(config, str(path))
        return config

    def write(self, path: str | Path, config: Message) -> None:
        """Writes the file, whole or not at all; one that exists is replaced.

        Raises:
            ConfigError: the file cannot be written; what was there stays.
        """
        try:
            files.replace(Path(path), render(config).encode(), 0o600 if self.secret else 0o644)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be written: {error.strerror}: choose another place"
            ) from error


# --batching_parameters_file: how concurrent requests are merged into one run.

# TensorFlow, tensorflow/core/kernels/batching_util/shared_batch_scheduler.h:
# input_batch_size_limit.
_DEFAULT_MAX_BATCH_SIZE = 1000
_POSITIVE = (
    "max_batch_size",
    "max_enqueued_batches",
    "num_batch_threads",
    "max_execution_batch_size",
)


def _make_batching(**fields: bool | int | str | Sequence[int]) -> Message:
    """Makes a BatchingParameters of the message's own fields, with plain values; what is left out
    takes TensorFlow Serving's default.
    """
    parameters = message("tensorflow.serving.BatchingParameters")()
    known = parameters.DESCRIPTOR.fields_by_name
    for name, value in fields.items():
        if name not in known:
            raise ConfigError(
                f"BatchingParameters has no field {name}: expected one of {', '.join(known)}"
            )
        try:
            json_format.ParseDict({name: value}, parameters)
        except json_format.ParseError as error:
            raise ConfigError(
                f"{name} of BatchingParameters cannot be {value!r}: {error}"
            ) from error
    _check_batching(parameters, "BatchingParameters")
    return parameters


def _check_batching(parameters: Message, source: str) -> None:
    """Refuses values with which no model can be loaded, in TensorFlow Serving's own words where it
    has some (bundle_factory_util.cc and batching_session.cc).
    """
    for name in _POSITIVE:
        if parameters.HasField(name) and getattr(parameters, name).value < 1:
            raise ConfigError(
                f"{source}: {name} must be positive; was {getattr(parameters, name).value}"
            )
    if parameters.batch_timeout_micros.value < 0:
        raise ConfigError(
            f"{source}: batch_timeout_micros must not be negative; was"
            f" {parameters.batch_timeout_micros.value}"
        )
    largest = parameters.max_batch_size.value or _DEFAULT_MAX_BATCH_SIZE
    name = "max_batch_size"
    if parameters.enable_large_batch_splitting.value:
        name = "max_execution_batch_size"
        execution = parameters.max_execution_batch_size.value or largest
        if execution > largest:
            raise ConfigError(
                f"{source}: max_execution_batch_size must not be above max_batch_size; was"
                f" {execution}; expected at most {largest}"
            )
        largest = execution
    sizes = list(parameters.allowed_batch_sizes)
    if not sizes:
        return
    if sizes != sorted(set(sizes)) or sizes[0] < 1:
        raise ConfigError(
            f"{source}: allowed_batch_sizes entries must be positive and increasing; they were"
            f" {sizes}: sort them"
        )
    if sizes[-1] != largest:
        raise ConfigError(
            f"{source}: Last entry in allowed_batch_sizes must match {name}; last entry was"
            f" {sizes[-1]}; expected {largest}: append it, or change {name}"
        )


batching = ConfigFile("BatchingParameters", _make_batching, _check_batching)


# --monitoring_config_file: whether and where the REST port shows metrics to Prometheus.

# tensorflow/serving, tensorflow_serving/util/prometheus_exporter.cc: kPrometheusPath.
DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"


def _make_monitoring(path: str = DEFAULT_METRICS_PATH) -> Message:
    """Makes a MonitoringConfig that shows metrics at a path of the REST port."""
    config = message("tensorflow.serving.MonitoringConfig")(
        prometheus_config={"enable": True, "path": path}
    )
    _check_monitoring(config, "MonitoringConfig")
    return config


def _check_monitoring(config: Message, source: str) -> None:
    """Refuses a path at which no request can arrive; an empty one is the default."""
    path = config.prometheus_config.path
    if path and not path.startswith("/"):
        raise ConfigError(
            f"{source}: the path of prometheus_config is {path}: expected one that begins with /"
        )


monitoring = ConfigFile("MonitoringConfig", _make_monitoring, _check_monitoring)


# --ssl_config_file: TLS on the gRPC port; REST stays plain, in TensorFlow Serving too. The file
# holds the PEM text of keys and certificates itself, not paths to it, and so is a secret.

# Field, and what stands in the first line of its PEM text (RFC 7468; keys also PKCS#1 and SEC 1).
_PEM = (("server_key", "PRIVATE KEY"), ("server_cert", "CERTIFICATE"), ("custom_ca", "CERTIFICATE"))


def _make_tls(
    server_key: str | Path, server_cert: str | Path, client_ca: str | Path | None = None
) -> Message:
    """Makes an SSLConfig out of PEM files.

    Args:
        server_key: the server's private key.
        server_cert: its certificate, then those in between up to the root.
        client_ca: where it is given, clients have to show a certificate that one of these signed.
    """
    config = message("tensorflow.serving.SSLConfig")(client_verify=client_ca is not None)
    for (field, _), path in zip(_PEM, (server_key, server_cert, client_ca), strict=True):
        if path is not None:
            try:
                setattr(config, field, Path(path).read_text(encoding="ascii"))
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "is not text"
                raise ConfigError(f"{path}: {reason}: expected a PEM file for {field}") from error
    _check_tls(config, "SSLConfig")
    return config


def _check_tls(config: Message, source: str) -> None:
    """Refuses what no TLS handshake can work with: a key or certificate that is missing or no PEM
    text, or clients to be verified against nothing.
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
            f"{source}: client_verify is true without a custom_ca: give the certificates that sign"
            " those of clients"
        )


tls = ConfigFile("SSLConfig", _make_tls, _check_tls, secret=True)

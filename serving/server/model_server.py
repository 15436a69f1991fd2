"""Starts the parts of the server in order, and stops them in order."""

import logging
import queue
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from tensorflow.core.protobuf.config_pb2 import ConfigProto
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.config import DEFAULT_METRICS_PATH, Message, monitoring, tls
from serving.server import discovery, grpc_service, loading
from serving.server.batching import Parameters, Scheduler, read_parameters
from serving.server.discovery import read_text_proto
from serving.server.flags import Flags
from serving.server.handlers import Handlers
from serving.server.manager import Manager
from serving.server.metrics import Metrics, RequestLog
from serving.server.rest import RestApi
from serving.server.rest_server import RestServer
from serving.server.status import failed_precondition, invalid_argument
from whisker_ml import files

# How long requests may take to finish after SIGTERM; Kubernetes kills after 30 s if nothing else is
# configured.
_DRAIN_S = 20.0
# How long a load that is under way at the end is waited for.
_MANAGER_STOP_S = 2.0
_READY_POLL_S = 0.05
# Numbers that flags may have.
_NOT_NEGATIVE = ("grpc_max_threads", "rest_api_num_threads", "max_request_rows")
_POSITIVE = (
    "max_request_bytes",
    "max_json_bytes",
    "max_pixels",
    "request_arrival_timeout_in_ms",
    "max_connections_per_peer",
)

_log = logging.getLogger(__name__)


def serve(flags: Flags, stop: "queue.SimpleQueue[int]") -> bool:
    """Serves until something is put into `stop`.

    Args:
        flags: the command line.
        stop: a queue rather than an event, as a signal handler may put into it at any moment.

    Returns:
        Whether every request and load has ended; False if a thread is still inside TensorFlow.

    Raises:
        WhiskerError: the server cannot start.
    """
    check(flags)
    read_config = _config_reader(flags)
    if not flags.model_config_file:
        flags = replace(flags, model_config_file_poll_wait_seconds=0)
    parameters = batching_parameters(flags)
    load = partial(loading.load, flags=flags, session=session_options(flags), batching=parameters)
    tls_config = tls.read(flags.ssl_config_file) if flags.ssl_config_file else None
    metrics_path = monitored_path(flags)
    log = RequestLog(flags.request_log_file) if flags.request_log_file else None
    metrics = Metrics(log=log)
    scheduler = Scheduler(parameters, metrics) if parameters else None
    manager = Manager(load, read_config, flags)
    manager.apply(read_config())
    manager.start()
    try:
        if _wait_until_ready(manager, stop):
            handlers = Handlers(manager, scheduler, metrics, flags)
            rest_api = RestApi(handlers, flags, metrics_path)
            _listen(flags, handlers, rest_api, tls_config, stop)
    finally:
        clean = manager.stop(_MANAGER_STOP_S)
        if log is not None:
            log.close()
    return clean


def check(flags: Flags) -> None:
    """Refuses numbers that cannot work.

    Raises:
        StatusError: INVALID_ARGUMENT, with the flag and what it may be.
    """
    for name in _NOT_NEGATIVE:
        if getattr(flags, name) < 0:
            raise invalid_argument(
                f"--{name}={getattr(flags, name)}: expected a positive number, or 0 for the default"
            )
    for name in _POSITIVE:
        if not 1 <= getattr(flags, name) < 2**31:
            raise invalid_argument(f"--{name}={getattr(flags, name)}: expected 1 to 2147483647")


def _config_reader(flags: Flags) -> Callable[[], ModelServerConfig]:
    if flags.port == 0 and not flags.grpc_socket_path and not flags.ports_file:
        raise invalid_argument("server_options.grpc_port is not set.")
    if flags.model_config_file:
        return lambda: discovery.read_config(flags.model_config_file)
    if not flags.model_base_path:
        raise invalid_argument(
            "Both server_options.model_base_path and server_options.model_config_file are empty!"
        )
    return lambda: discovery.single_model(flags.model_name, flags.model_base_path)


def _wait_until_ready(manager: Manager, stop: "queue.SimpleQueue[int]") -> bool:
    """Waits, for ever if need be, as the real server does; False if told to stop meanwhile."""
    while not manager.ready():
        try:
            stop.get(timeout=_READY_POLL_S)
        except queue.Empty:
            continue
        return False
    return True


def _listen(
    flags: Flags,
    handlers: Handlers,
    rest_api: RestApi,
    tls_config: Message | None,
    stop: "queue.SimpleQueue[int]",
) -> None:
    host = "0.0.0.0" if flags.bind_all else "127.0.0.1"  # noqa: S104 - asked for by flag
    wanted = 0 if flags.ports_file else flags.port or None
    grpc_server, port = grpc_service.bind(handlers, host, wanted, flags, tls_config)
    rest = _bind_rest(flags, rest_api, host)
    grpc_server.start()
    if port is not None:
        _log.info("Running gRPC ModelServer at %s:%d ...", host, port)
    if flags.grpc_socket_path:
        _log.info("Running gRPC ModelServer at unix:%s ...", flags.grpc_socket_path)
    if rest:
        rest.start()
        _log.info("Exporting HTTP/REST API at:%s:%d ...", host, rest.port)
    if flags.ports_file and rest:
        _write_ports(Path(flags.ports_file), port, rest.port)
    stop.get()
    _log.info("Stopping: requests under way have %g s to finish", _DRAIN_S)
    handlers.drain()
    stopped = grpc_server.stop(_DRAIN_S)
    if rest:
        rest.stop(_DRAIN_S)
    stopped.wait()


def _bind_rest(flags: Flags, api: RestApi, host: str) -> RestServer | None:
    if flags.ports_file:
        return RestServer(api, host, 0, flags)
    if flags.rest_api_port and flags.rest_api_port == flags.port:
        _log.error(
            "server_options.http_port cannot be same as grpc_port. Please use a different port for"
            " HTTP/REST API. Skipped exporting HTTP/REST API."
        )
        return None
    return RestServer(api, host, flags.rest_api_port, flags) if flags.rest_api_port else None


def _write_ports(path: Path, port: int | None, rest_api_port: int) -> None:
    try:
        files.write_json(path, {"port": port, "rest_api_port": rest_api_port})
    except OSError as error:
        raise failed_precondition(
            f"--ports_file={path} cannot be written: {error.strerror}"
        ) from error


def monitored_path(flags: Flags) -> str:
    """Says where on the REST port Prometheus reads; empty for nowhere.

    Raises:
        WhiskerError: the file cannot be read.
    """
    if not flags.monitoring_config_file:
        return ""
    prometheus = monitoring.read(flags.monitoring_config_file).prometheus_config
    if prometheus.enable and not flags.rest_api_port and not flags.ports_file:
        _log.warning("metrics are for the REST port, and there is none: set --rest_api_port")
    return prometheus.path or DEFAULT_METRICS_PATH if prometheus.enable else ""


def batching_parameters(flags: Flags) -> Parameters | None:
    """Says how requests are merged; None: not at all.

    Raises:
        StatusError: INVALID_ARGUMENT, flags that contradict one another, or a file that cannot be
            read.
    """
    if flags.enable_batching:
        return read_parameters(flags.batching_parameters_file)
    for name in ("batching_parameters_file", "enable_per_model_batching_parameters"):
        if getattr(flags, name):
            raise invalid_argument(
                f"server_options.{name} is set without setting server_options.enable_batching to"
                " true."
            )
    return None


def session_options(flags: Flags) -> ConfigProto:
    """Makes the options of sessions; flags that are set win over the file.

    Raises:
        StatusError: INVALID_ARGUMENT, flags that contradict one another or cannot work, or a file
            that is no ConfigProto.
    """
    options = ConfigProto()
    if flags.tensorflow_session_config_file:
        read_text_proto(flags.tensorflow_session_config_file, options)
    both, intra, inter = (
        flags.tensorflow_session_parallelism,
        flags.tensorflow_intra_op_parallelism,
        flags.tensorflow_inter_op_parallelism,
    )
    if both > 0 and intra > 0 and inter > 0:
        raise invalid_argument(
            "tensorflow_session_parallelism stands for tensorflow_intra_op_parallelism and "
            "tensorflow_inter_op_parallelism: set either it, or those two"
        )
    if intra or both:
        options.intra_op_parallelism_threads = intra or both
    if inter or both:
        options.inter_op_parallelism_threads = inter or both
    if not 0 <= flags.per_process_gpu_memory_fraction <= 1:
        raise invalid_argument(
            "per_process_gpu_memory_fraction must be between 0 and 1; was"
            f" {flags.per_process_gpu_memory_fraction:g}"
        )
    if flags.per_process_gpu_memory_fraction:
        options.gpu_options.per_process_gpu_memory_fraction = flags.per_process_gpu_memory_fraction
    if flags.mixed_precision not in ("", "bfloat16"):
        raise invalid_argument(
            f"mixed_precision must be bfloat16 or empty; was {flags.mixed_precision}"
        )
    if flags.mixed_precision:
        options.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = (
            RewriterConfig.ON
        )
    return options

"""Starts the parts of the server in order, and stops them in order."""

import logging
import queue
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
from tensorflow.core.protobuf.config_pb2 import ConfigProto
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.config import DEFAULT_METRICS_PATH, monitoring, tls
from serving.server import discovery, grpc_service, loading
from serving.server.batching import Parameters, Scheduler, read_parameters
from serving.server.discovery import read_text_proto
from serving.server.flags import Flags
from serving.server.grpc_service import Transport
from serving.server.handlers import Handlers
from serving.server.limits import Limits
from serving.server.loading import LoadingOptions
from serving.server.manager import Manager, Options
from serving.server.metrics import Metrics
from serving.server.request_log import RequestLog
from serving.server.rest import RestApi
from serving.server.rest_server import RestServer, RestSettings
from serving.server.status import StatusError, invalid_argument
from whisker_ml import files
from whisker_ml.processors import available_processors

# How long requests may take to finish after SIGTERM; Kubernetes kills after 30 s if nothing else is
# configured.
_DRAIN_S = 20.0
# How long a load that is under way at the end is waited for.
_MANAGER_STOP_S = 2.0
_READY_POLL_S = 0.05

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
    read_config = _config_reader(flags)
    options = loading_options(flags)
    transport = transport_settings(flags)
    metrics_path = monitored_path(flags)
    limits = request_limits(flags)
    log = RequestLog(flags.request_log_file) if flags.request_log_file else None
    metrics = Metrics(log=log)
    scheduler = Scheduler(options.batching, metrics) if options.batching else None
    manager = Manager(
        partial(loading.load, options=options),
        read_config,
        Options(
            poll_wait_s=flags.file_system_poll_wait_seconds,
            config_poll_wait_s=(
                flags.model_config_file_poll_wait_seconds if flags.model_config_file else 0
            ),
            max_load_retries=flags.max_num_load_retries,
            load_retry_interval_s=flags.load_retry_interval_micros / 1e6,
            labels_for_unavailable=flags.allow_version_labels_for_unavailable_models,
            retry_failed=flags.enable_reload_servables_with_error,
            start_with_what_loads=flags.start_with_what_loads,
        ),
    )
    manager.apply(read_config())
    manager.start()
    try:
        if _wait_until_ready(manager, stop):
            handlers = Handlers(
                manager,
                scheduler,
                flags.enable_serialization_as_tensor_content,
                metrics,
                limits,
                flags.allow_reload,
            )
            _listen(flags, handlers, transport, metrics_path, scheduler, stop)
    finally:
        clean = manager.stop(_MANAGER_STOP_S)
        if log is not None:
            log.close()
    return clean


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
    transport: grpc_service.Transport,
    metrics_path: str,
    scheduler: Scheduler | None,
    stop: "queue.SimpleQueue[int]",
) -> None:
    host = "0.0.0.0" if flags.bind_all else "127.0.0.1"  # noqa: S104 - asked for by flag
    wanted = 0 if flags.ports_file else flags.port or None
    grpc_server, port = grpc_service.bind(handlers, host, wanted, transport)
    rest = _bind_rest(flags, handlers, host, metrics_path)
    grpc_server.start()
    if port is not None:
        _log.info("Running gRPC ModelServer at %s:%d ...", host, port)
    if transport.socket_path:
        _log.info("Running gRPC ModelServer at unix:%s ...", transport.socket_path)
    if rest:
        rest.start()
        _log.info("Exporting HTTP/REST API at:%s:%d ...", host, rest.port)
    if flags.ports_file and rest:
        _write_ports(Path(flags.ports_file), port, rest.port)
    stop.get()
    _log.info("Stopping: requests under way have %g s to finish", _DRAIN_S)
    if scheduler:
        scheduler.drain()
    stopped = grpc_server.stop(_DRAIN_S)
    if rest:
        rest.stop(_DRAIN_S)
    stopped.wait()


def _bind_rest(flags: Flags, handlers: Handlers, host: str, metrics_path: str) -> RestServer | None:
    if not flags.ports_file and flags.rest_api_port == 0:
        return None
    if not flags.ports_file and flags.rest_api_port == flags.port:
        _log.error(
            "server_options.http_port cannot be same as grpc_port. Please use a different port for"
            " HTTP/REST API. Skipped exporting HTTP/REST API."
        )
        return None
    timeout_s = flags.rest_api_timeout_in_ms / 1000 if flags.rest_api_timeout_in_ms > 0 else None
    api = RestApi(
        handlers, timeout_s, flags.rest_api_enable_cors_support, flags.demo_page, metrics_path
    )
    settings = RestSettings(
        threads=flags.rest_api_num_threads or 4 * available_processors(),
        most_bytes=flags.max_json_bytes,
        arrival_s=flags.request_arrival_timeout_in_ms / 1000,
        connections_per_peer=flags.max_connections_per_peer,
    )
    return RestServer(api, host, 0 if flags.ports_file else flags.rest_api_port, settings)


def _write_ports(path: Path, port: int | None, rest_api_port: int) -> None:
    try:
        files.write_json(path, {"port": port, "rest_api_port": rest_api_port})
    except OSError as error:
        raise StatusError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"--ports_file={path} cannot be written: {error.strerror}",
        ) from error


# What the flags mean for the parts of the server: checked before anything starts.


def loading_options(flags: Flags) -> LoadingOptions:
    """Says how a version is loaded.

    Raises:
        WhiskerError: flags that contradict one another, or a file that cannot be read.
    """
    return LoadingOptions(
        prefer_tflite=flags.prefer_tflite_model,
        xnnpack=flags.xnnpack,
        interpreters=max(1, flags.num_tflite_pools),
        warm_up=flags.enable_model_warmup,
        warm_up_iterations=max(1, flags.num_request_iterations_for_warmup),
        session=_session(flags),
        tags=tuple(filter(None, flags.saved_model_tags.split(","))),
        batching=_batching(flags),
        batching_per_version=flags.enable_per_model_batching_parameters,
        verify_digests=flags.verify_digests,
    )


def request_limits(flags: Flags) -> Limits:
    """Says what a request may ask for.

    Raises:
        StatusError: a bound that would let nothing through.
    """
    if flags.max_request_rows < 0:
        raise invalid_argument(
            f"--max_request_rows={flags.max_request_rows}: expected a positive number, or 0 for the"
            " default"
        )
    for name in (
        "max_request_bytes",
        "max_json_bytes",
        "max_pixels",
        "request_arrival_timeout_in_ms",
        "max_connections_per_peer",
    ):
        if not 1 <= getattr(flags, name) < 2**31:
            raise invalid_argument(f"--{name}={getattr(flags, name)}: expected 1 to 2147483647")
    return Limits(flags.max_request_rows or None, flags.max_request_bytes, flags.max_pixels)


def transport_settings(flags: Flags) -> Transport:
    """Says how the gRPC side listens.

    Raises:
        WhiskerError: a number or a file that cannot work.
    """
    for name in ("grpc_max_threads", "rest_api_num_threads"):
        if getattr(flags, name) < 0:
            raise invalid_argument(
                f"--{name}={getattr(flags, name)}: expected a positive number, or 0 for the default"
            )
    chosen = Transport(
        socket_path=flags.grpc_socket_path,
        tls=tls.read(flags.ssl_config_file) if flags.ssl_config_file else None,
        arguments=flags.grpc_channel_arguments,
        health=flags.enable_grpc_healthcheck_service,
        arrival_s=flags.request_arrival_timeout_in_ms / 1000,
        most_bytes=flags.max_request_bytes,
    )
    return (
        replace(chosen, most_at_work=flags.grpc_max_threads) if flags.grpc_max_threads else chosen
    )


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


def _batching(flags: Flags) -> Parameters | None:
    if flags.enable_batching:
        return read_parameters(flags.batching_parameters_file)
    for name in ("batching_parameters_file", "enable_per_model_batching_parameters"):
        if getattr(flags, name):
            raise invalid_argument(
                f"server_options.{name} is set without setting server_options.enable_batching to"
                " true."
            )
    return None


def _session(flags: Flags) -> ConfigProto:
    """Makes the options of sessions; flags that are set win over the file."""
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

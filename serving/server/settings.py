"""What the flags mean for the parts of the server: checked before anything starts."""

import logging
from dataclasses import replace

from tensorflow.core.protobuf.config_pb2 import ConfigProto
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from serving.config import monitoring, tls
from serving.server.batching_parameters import Parameters, read_parameters
from serving.server.flags import Flags
from serving.server.grpc_service import Transport
from serving.server.loading import Options
from serving.server.source import read_text_proto
from serving.server.status import invalid_argument

_log = logging.getLogger(__name__)


def loading_options(flags: Flags) -> Options:
    """Says how a version is loaded.

    Raises:
        WhiskerError: flags that contradict one another, or a file that cannot be read.
    """
    return Options(
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


def transport(flags: Flags) -> Transport:
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
    )
    return (
        replace(chosen, most_at_work=flags.grpc_max_threads) if flags.grpc_max_threads else chosen
    )


def metrics_path(flags: Flags) -> str:
    """Says where on the REST port Prometheus reads; empty for nowhere.

    Raises:
        WhiskerError: the file cannot be read.
    """
    if not flags.monitoring_config_file:
        return ""
    prometheus = monitoring.read(flags.monitoring_config_file).prometheus_config
    if prometheus.enable and not flags.rest_api_port and not flags.ports_file:
        _log.warning("metrics are for the REST port, and there is none: set --rest_api_port")
    return prometheus.path or monitoring.DEFAULT_PATH if prometheus.enable else ""


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
            "tensorflow_inter_op_parallelism: set it, or those two"
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

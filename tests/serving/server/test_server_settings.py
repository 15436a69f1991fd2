import logging
import queue

import pytest

from serving.config import ConfigError
from serving.server import model_server
from serving.server.batching import Parameters
from serving.server.flags import Flags
from serving.server.handlers import Handlers, Limits
from serving.server.status import StatusError


def session(**flags):
    return model_server.session_options(Flags(**flags))


def test_parallelism_stands_for_both_and_its_parts_win_over_it():
    options = session(tensorflow_session_parallelism=3)
    assert (options.intra_op_parallelism_threads, options.inter_op_parallelism_threads) == (3, 3)
    options = session(tensorflow_session_parallelism=3, tensorflow_inter_op_parallelism=2)
    assert (options.intra_op_parallelism_threads, options.inter_op_parallelism_threads) == (3, 2)


def test_session_file_is_read_and_flags_win_over_it(tmp_path):
    path = tmp_path / "session.config"
    path.write_text(
        "intra_op_parallelism_threads: 4 inter_op_parallelism_threads: 5 allow_soft_placement: true"
    )
    options = session(
        tensorflow_session_config_file=str(path),
        tensorflow_intra_op_parallelism=1,
        per_process_gpu_memory_fraction=0.25,
        mixed_precision="bfloat16",
    )
    assert (options.intra_op_parallelism_threads, options.inter_op_parallelism_threads) == (1, 5)
    assert options.allow_soft_placement
    assert options.gpu_options.per_process_gpu_memory_fraction == 0.25
    assert options.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {
                "tensorflow_session_parallelism": 1,
                "tensorflow_intra_op_parallelism": 1,
                "tensorflow_inter_op_parallelism": 1,
            },
            (
                "tensorflow_session_parallelism stands for tensorflow_intra_op_parallelism and "
                "tensorflow_inter_op_parallelism: set either it, or those two"
            ),
        ),
        (
            {"per_process_gpu_memory_fraction": 1.5},
            "per_process_gpu_memory_fraction must be between 0 and 1; was 1.5",
        ),
        ({"mixed_precision": "float16"}, "mixed_precision must be bfloat16 or empty; was float16"),
        (
            {"enable_per_model_batching_parameters": True},
            (
                "server_options.enable_per_model_batching_parameters is set without setting "
                "server_options.enable_batching to true."
            ),
        ),
    ],
)
def test_flags_that_cannot_work_are_refused(flags, message):
    with pytest.raises(StatusError) as error:
        model_server.serve(Flags(**flags, model_base_path="/none"), queue.SimpleQueue())
    assert str(error.value) == f"INVALID_ARGUMENT: {message}"


def test_batching_is_off_unless_asked_for():
    assert model_server.batching_parameters(Flags()) is None
    assert model_server.batching_parameters(Flags(enable_batching=True)) == Parameters()


@pytest.mark.parametrize("name", ["grpc_max_threads", "rest_api_num_threads"])
def test_negative_number_of_threads_is_refused(name):
    with pytest.raises(StatusError) as error:
        model_server.check(Flags(**{name: -1}))
    assert (
        str(error.value)
        == f"INVALID_ARGUMENT: --{name}=-1: expected a positive number, or 0 for the default"
    )


def test_tls_file_that_holds_paths_is_refused(tmp_path):
    path = tmp_path / "tls.config"
    path.write_text('server_key: "/etc/key.pem" server_cert: "/etc/cert.pem"')
    with pytest.raises(ConfigError, match="server_key is a path: expected the PEM text itself"):
        model_server.serve(
            Flags(model_base_path="/none", ssl_config_file=str(path)), queue.SimpleQueue()
        )


def test_metrics_have_the_path_of_the_real_server_are_off_by_default_and_need_the_rest_port(
    tmp_path, caplog
):
    path = tmp_path / "monitoring.config"
    path.write_text("prometheus_config { enable: true }")
    assert model_server.monitored_path(Flags()) == ""
    flags = {"monitoring_config_file": str(path)}
    assert (
        model_server.monitored_path(Flags(**flags, rest_api_port=1))
        == "/monitoring/prometheus/metrics"
    )
    assert caplog.records == []
    model_server.monitored_path(Flags(**flags))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    path.write_text("")
    assert model_server.monitored_path(Flags(**flags, rest_api_port=1)) == ""


@pytest.mark.parametrize(
    "name",
    [
        "max_request_bytes",
        "max_json_bytes",
        "max_pixels",
        "request_arrival_timeout_in_ms",
        "max_connections_per_peer",
    ],
)
@pytest.mark.parametrize("value", [0, -1, 2**31])
def test_bound_that_lets_nothing_through_is_refused(name, value):
    with pytest.raises(StatusError, match=f"--{name}={value}: expected 1 to 2147483647"):
        model_server.check(Flags(**{name: value}))


def test_bounds_reach_those_that_keep_them():
    flags = Flags(max_request_rows=2, max_request_bytes=3, max_pixels=4)
    assert Handlers(None, None, flags=flags).limits == Limits(rows=2, nbytes=3, pixels=4)
    assert Handlers(None, None).limits.rows is None
    with pytest.raises(StatusError, match="--max_request_rows=-1: expected a positive number"):
        model_server.check(Flags(max_request_rows=-1))

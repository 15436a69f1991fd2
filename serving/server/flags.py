"""The command line: names, defaults and manner of tensorflow_model_server.

Its parser is tsl/util/command_line_flags.cc: only ``--name=value``; for a bool also ``--name``, its
values are true and false; an unknown argument is printed and left out; a value that cannot be read
ends the program with usage. A flag of the real server that cannot mean anything here is accepted
with a warning.
"""

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any, TextIO

from whisker_ml.cli import grouped, help_page, setting
from whisker_ml.machine import available_processors

EXIT_START_FAILED = 255  # main.cc returns -1.


_Value = bool | int | float | str


@dataclass(frozen=True)
class Flags:
    """What the command line may set; the last group is not tensorflow_model_server's."""

    port: int = setting(
        8500,
        "TCP port to listen on for gRPC; 0 means none, and needs --grpc_socket_path.",
        group="gRPC",
    )
    grpc_socket_path: str = setting("", "Path of a Unix socket to listen on for gRPC as well.")
    grpc_max_threads: int = setting(
        0,
        "gRPC requests that are worked on at a time; 0 means 128, as most of them wait (real"
        " server: 4 per CPU).",
    )
    grpc_channel_arguments: str = setting(
        "",
        "Arguments of the gRPC server, such as grpc.max_connection_age_ms=30000, separated by"
        " commas.",
    )
    enable_grpc_healthcheck_service: bool = setting(
        False, "Answer grpc.health.v1.Health/Check on the gRPC port."
    )
    ssl_config_file: str = setting(
        "",
        "Text SSLConfig, with the keys themselves, not their paths: TLS for gRPC; REST stays"
        " without TLS.",
    )
    rest_api_port: int = setting(
        0, "TCP port to listen on for REST; 0 means no REST.", group="REST"
    )
    rest_api_num_threads: int = setting(0, "Threads that answer REST requests; 0 means 4 per CPU.")
    rest_api_timeout_in_ms: int = setting(
        30000, "Longest run of a model for a REST request, in milliseconds."
    )
    monitoring_config_file: str = setting(
        "", "Text MonitoringConfig: metrics for Prometheus on the REST port."
    )
    rest_api_enable_cors_support: bool = setting(
        False, "Let pages of other origins read the answers of REST."
    )
    model_name: str = setting(
        "default", "Name of the model; ignored if --model_config_file is set.", group="Models"
    )
    model_base_path: str = setting(
        "", "Absolute path of the folder of versions; ignored if --model_config_file is set."
    )
    model_config_file: str = setting("", "Text ModelServerConfig that names the models to serve.")
    model_config_file_poll_wait_seconds: int = setting(
        0, "Seconds between looks at --model_config_file; 0 means once."
    )
    file_system_poll_wait_seconds: int = setting(
        1, "Seconds between looks for new versions; 0 means once, a negative number never."
    )
    allow_version_labels_for_unavailable_models: bool = setting(
        False, "Accept a new label for a version that is not loaded yet."
    )
    enable_batching: bool = setting(
        False, "Merge concurrent requests into one run of the model.", group="Batching"
    )
    batching_parameters_file: str = setting("", "Text BatchingParameters; needs --enable_batching.")
    enable_per_model_batching_parameters: bool = setting(
        False,
        "With --enable_batching, batch only versions that contain a batching_params.pbtxt, with"
        " its settings; --batching_parameters_file then sets only the threads.",
    )
    max_num_load_retries: int = setting(
        5, "How often the load of a version is tried again after a failure.", group="Loading"
    )
    load_retry_interval_micros: int = setting(
        60_000_000, "Microseconds between two attempts to load a version."
    )
    enable_model_warmup: bool = setting(
        True, "Answer the requests of assets.extra/tf_serving_warmup_requests at load."
    )
    num_request_iterations_for_warmup: int = setting(
        0, "How often each warm-up request is answered; 0 means once."
    )
    enable_reload_servables_with_error: bool = setting(
        False,
        "After the last of --max_num_load_retries, keep trying a version, every"
        " --load_retry_interval_micros.",
    )
    saved_model_tags: str = setting(
        "serve", "Tags of the metagraph to load, separated by commas.", group="TensorFlow"
    )
    tensorflow_session_config_file: str = setting(
        "", "Text ConfigProto of the sessions that models run in."
    )
    tensorflow_session_parallelism: int = setting(
        0, "Threads within an operation, and of operations; 0: as TensorFlow chooses."
    )
    tensorflow_intra_op_parallelism: int = setting(
        0, "Threads within an operation; 0: as TensorFlow chooses."
    )
    tensorflow_inter_op_parallelism: int = setting(
        0, "Operations that run at a time; 0: as TensorFlow chooses."
    )
    per_process_gpu_memory_fraction: float = setting(
        0.0, "Share of each GPU's memory, 0 to 1; 0: as TensorFlow chooses."
    )
    mixed_precision: str = setting("", "bfloat16: compute in it where the CPU has units for it.")
    enable_serialization_as_tensor_content: bool = setting(
        False, "Answer Predict with tensor_content rather than with typed fields."
    )
    prefer_tflite_model: bool = setting(
        False, "Serve a version that contains model.tflite with TensorFlow Lite."
    )
    num_tflite_pools: int = setting(
        available_processors(), "TensorFlow Lite interpreters per version, with one thread each."
    )
    max_request_rows: int = setting(
        0,
        "Most rows of a request: the first dimension of an input, or its examples; 0: 1000 where a"
        " row may be a picture (strings, or four dimensions), else as many as the bytes allow.",
        group="What a request may ask for",
    )
    max_request_bytes: int = setting(
        2**29, "Most bytes of a request, both as it is received and as tensors."
    )
    max_json_bytes: int = setting(
        2**24,
        "Most bytes in the body of a REST request: JSON takes many times its length in memory.",
    )
    max_pixels: int = setting(
        10**9, "Most pixels of all pictures in a request: width times height, added up."
    )
    request_arrival_timeout_in_ms: int = setting(
        60_000, "Milliseconds in which a whole request must arrive, counted from its first byte."
    )
    max_connections_per_peer: int = setting(
        256,
        "Most REST connections from one address; one more closes the one that was idle longest.",
    )
    start_with_what_loads: bool = setting(
        False,
        "Open the ports once every model has been tried, and serve those that loaded; without"
        " this flag, wait for all, or fail.",
        group="Whisker's own",
    )
    request_log_file: str = setting(
        "",
        "Append a line of JSON for each request: time, model, version, signature, rows, status,"
        " milliseconds; never a picture. A file that was renamed is created again.",
    )
    verify_digests: bool = setting(
        False,
        "Load only versions that are as they were published: files, number and class names must"
        " match assets.extra/whisker.json.",
    )
    xnnpack: bool = setting(False, "Run the network of Whisker's own models in XNNPACK.")
    bind_all: bool = setting(
        False, "Listen on all interfaces; without this flag, only on the loopback interface."
    )
    allow_reload: bool = setting(
        True,
        "Answer HandleReloadConfigRequest, with which a client makes the server load other"
        " models. With --bind_all the default is false.",
    )
    ports_file: str = setting(
        "",
        "Listen on free ports instead of --port and --rest_api_port, and write them here as JSON"
        " once ready.",
    )
    demo_page: bool = setting(
        False, "Serve a page to try a model with pictures, at / of the REST port."
    )
    verbosity: int = setting(
        -3, "Log lines of TensorFlow and other libraries: 0 shows all, -1 warnings, -2 errors."
    )


DEFAULTS = Flags()

# Flags of tensorflow_model_server that cannot mean anything here: the value that says what is done
# anyhow, and why.
_NO_EFFECT: dict[str, tuple[bool | int | str, str]] = {
    "enable_profiler": (False, "the profiler is not supported"),
    "enable_signature_method_name_check": (
        False,
        "a signature answers every method that its outputs fit",
    ),
    "flush_filesystem_caches": (True, "files are not cached"),
    "num_load_threads": (0, "versions are loaded one after the other"),
    "num_tflite_interpreters_per_pool": (
        1,
        "every interpreter has a thread of its own; use --num_tflite_pools",
    ),
    "num_unload_threads": (0, "versions are unloaded one after the other"),
    "platform_config_file": ("", "there is one platform, tensorflow, which other flags configure"),
    "remove_unused_fields_from_bundle_metagraph": (
        True,
        "only signatures are kept of a metagraph",
    ),
    "skip_initialize_tpu": (True, "TPUs are not supported"),
    "thread_pool_factory_config_file": ("", "TensorFlow's own thread pools are used"),
    "use_alts_credentials": (False, "ALTS works only inside Google Cloud; use --ssl_config_file"),
    "xla_cpu_compilation_enabled": (False, "models run as they were exported, without XLA"),
    "xla_gpu_compilation_enabled": (False, "models run as they were exported, without XLA"),
}


def _whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise ValueError(text)
    return int(text)


# By the type of a default: what reads a value, and what it expects.
_READERS: dict[type, tuple[Callable[[str], _Value], str]] = {
    bool: ({"true": True, "false": False}.__getitem__, "true or false"),
    int: (_whole, "a whole number"),
    float: (float, "a number"),
    str: (str, "text"),
}


def parse(arguments: Sequence[str], description: str, output: TextIO = sys.stdout) -> Flags:
    """Reads the command line.

    Args:
        arguments: what follows the program's name.
        description: what usage begins with.
        output: where usage and versions are printed, as the real server prints them on standard
            output.

    Raises:
        SystemExit: 0 after ``--version``; 255 after ``--help`` or a value that cannot be read.
    """
    if arguments and arguments[0] == "--help":
        output.write(usage(description))
        raise SystemExit(EXIT_START_FAILED)
    defaults = {name: default for _, name, default, _ in rows()}
    values: dict[str, Any] = {}
    unknown = []
    for argument in arguments:
        if argument in ("--version", "--version=true"):
            release = version("tensorflow-serving-api")
            output.write(
                f"TensorFlow ModelServer: {release}+whisker\nTensorFlow Library:"
                f" {version('tensorflow')}\n"
            )
            raise SystemExit(0)
        name, equals, text = argument.removeprefix("--").partition("=")
        default = defaults.get(name) if argument.startswith("--") else None
        if default is None or not (equals or isinstance(default, bool)):
            unknown.append(argument)
            continue
        read, expected = _READERS[type(default)]
        try:
            values[name] = read(text if equals else "true")
        except (KeyError, ValueError):
            output.write(
                f"Couldn't interpret value {text} for flag {name}: expected {expected}.\n"
                + usage(description)
            )
            raise SystemExit(EXIT_START_FAILED) from None
    for name, (done_anyhow, reason) in _NO_EFFECT.items():
        if values.pop(name, done_anyhow) != done_anyhow:
            output.write(f"warning: --{name} has no effect here: {reason}\n")
    if unknown:
        output.write(
            "".join(f"unknown argument: {argument}\n" for argument in unknown) + usage(description)
        )
        # Once more where it is seen: the usage is longer than a screen.
        output.write(
            "".join(f"ignored: {argument}{_meant(argument, defaults)}\n" for argument in unknown)
        )
    # Whoever reaches the port could have a program of theirs run.
    values.setdefault("allow_reload", not values.get("bind_all", False))
    return Flags(**values)


def _meant(argument: str, names: Iterable[str]) -> str:
    """Says which flag an unknown argument may have meant."""
    name = argument.lstrip("-").partition("=")[0]
    near = get_close_matches(name, names, n=1)
    return f"; expected a flag, such as --{near[0]}=…" if near else "; expected --name=value"


def usage(description: str) -> str:
    """Lists every flag with its default and meaning, after what the server is."""
    return help_page(description, rows()) + "\n"


def rows() -> list[tuple[str, str, Any, str]]:
    """Lists group, name, default and meaning of each flag."""
    used = [
        (group, flag.name, flag.default, flag.metadata["help"]) for group, flag in grouped(Flags)
    ]
    ignored = "Accepted with a warning, without effect"
    return used + [
        (ignored, name, default, reason) for name, (default, reason) in _NO_EFFECT.items()
    ]

import io
import re
from dataclasses import fields

import pytest

from serving.server.flags import Flags, parse


def read(*arguments):
    output = io.StringIO()
    return parse(arguments, "what this is", output), output.getvalue()


def test_no_arguments_give_the_defaults_of_the_real_server_and_print_nothing():
    flags, printed = read()
    assert printed == ""
    assert (flags.port, flags.rest_api_port, flags.model_name) == (8500, 0, "default")
    assert (flags.file_system_poll_wait_seconds, flags.model_config_file_poll_wait_seconds) == (
        1,
        0,
    )
    assert (flags.max_num_load_retries, flags.load_retry_interval_micros) == (5, 60_000_000)
    assert (flags.rest_api_timeout_in_ms, flags.enable_batching) == (30000, False)


def test_values_of_every_type_are_read_and_the_last_one_wins():
    flags, printed = read(
        "--port=1", "--port=-2", "--model_name=a=b", "--enable_batching", "--bind_all=true"
    )
    assert printed == ""
    assert flags == Flags(
        port=-2, model_name="a=b", enable_batching=True, bind_all=True, allow_reload=False
    )
    assert read("--enable_batching", "--enable_batching=false")[0] == Flags()


@pytest.mark.parametrize(
    ("bind_all", "allow_reload", "allowed"),
    [
        ([], [], True),
        ([], ["--allow_reload"], True),
        ([], ["--allow_reload=true"], True),
        ([], ["--allow_reload=false"], False),
        (["--bind_all"], [], False),
        (["--bind_all"], ["--allow_reload"], True),
        (["--bind_all"], ["--allow_reload=true"], True),
        (["--bind_all"], ["--allow_reload=false"], False),
        (["--bind_all=false"], [], True),
        (["--bind_all=false"], ["--allow_reload=false"], False),
        (["--bind_all", "--bind_all=false"], [], True),
        (["--bind_all"], ["--allow_reload=false", "--allow_reload"], True),
    ],
)
def test_reload_is_allowed_on_this_machine_alone_unless_given(bind_all, allow_reload, allowed):
    for arguments in (bind_all + allow_reload, allow_reload + bind_all):
        assert read(*arguments)[0].allow_reload is allowed


def test_flags_that_mean_nothing_here_are_accepted_with_one_line_each_that_says_why():
    flags, printed = read(
        "--enable_profiler", "--num_load_threads=2", "--skip_initialize_tpu", "--port=1"
    )
    assert flags == Flags(port=1)
    assert printed.splitlines() == [
        "warning: --enable_profiler has no effect here: the profiler is not supported",
        "warning: --num_load_threads has no effect here: versions are loaded one after the other",
    ]


def test_fraction_is_read_as_a_number():
    assert read("--per_process_gpu_memory_fraction=0.5")[0] == Flags(
        per_process_gpu_memory_fraction=0.5
    )


def test_unknown_arguments_are_printed_with_usage_and_left_out():
    flags, printed = read("--colour=red", "--port", "9000", "-port=1", "--rest_api_port=8501")
    assert flags == Flags(rest_api_port=8501)
    unknown = [line for line in printed.splitlines() if line.startswith("unknown argument: ")]
    assert unknown == [
        f"unknown argument: {name}" for name in ("--colour=red", "--port", "9000", "-port=1")
    ]
    assert "\n  --model_base_path=" in printed
    assert printed.splitlines()[-4:] == [
        "ignored: --colour=red; expected --name=value",
        "ignored: --port; expected a flag, such as --port=…",
        "ignored: 9000; expected --name=value",
        "ignored: -port=1; expected a flag, such as --port=…",
    ]


@pytest.mark.parametrize(
    "argument",
    [
        "--port=x",
        "--port=",
        "--port=1.5",
        "--enable_batching=1",
        "--bind_all=yes",
        "--allow_reload=",
        "--per_process_gpu_memory_fraction=half",
        "--num_load_threads=x",
    ],
)
def test_value_that_cannot_be_read_ends_with_usage_and_255(argument):
    output = io.StringIO()
    with pytest.raises(SystemExit) as end:
        parse([argument], "what this is", output)
    assert end.value.code == 255
    name, _, value = argument.removeprefix("--").partition("=")
    assert output.getvalue().startswith(
        f"Couldn't interpret value {value} for flag {name}: expected "
    )
    assert "\nwhat this is\n" in output.getvalue()


def test_help_prints_usage_and_ends_with_255():
    output = io.StringIO()
    with pytest.raises(SystemExit) as end:
        parse(["--help"], "whisker-serve\n\n  whisker-serve --port=1\n\nServes.", output)
    assert end.value.code == 255
    assert output.getvalue().startswith("whisker-serve\n\n  whisker-serve --port=1\n\nServes.\n\n")
    groups = re.findall(r"^(\S.*):$", output.getvalue(), re.MULTILINE)
    assert groups[1:3] == ["gRPC", "REST"]
    assert groups[-1].startswith("Accepted with a warning")
    shown = re.findall(r"^  --(\w+=\S*)", output.getvalue(), re.MULTILINE)
    assert shown[0] == "port=8500"
    assert len(shown) == len(fields(Flags)) + 13
    assert {"model_name=default", "enable_batching=false", "num_load_threads=0"} <= set(shown)


def test_version_prints_two_lines_and_ends_with_0():
    output = io.StringIO()
    with pytest.raises(SystemExit) as end:
        parse(["--port=1", "--version"], "", output)
    assert end.value.code == 0
    first, second = output.getvalue().splitlines()
    assert first.startswith("TensorFlow ModelServer: ")
    assert second.startswith("TensorFlow Library: 2.")

import pytest
import tensorflow as tf

from trainer import devices
from trainer.cluster import Cluster
from trainer.config import Config
from trainer.devices import compilation_note, prepare
from trainer.errors import DeviceError

no_gpu = pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="this machine has a GPU"
)


@no_gpu
def test_one_device_gets_no_strategy():
    found = prepare(Config())
    assert (found.names, found.strategy_name) == (("CPU:0",), "no strategy")


@no_gpu
def test_split_device_gets_a_mirrored_strategy_of_as_many_replicas():
    found = prepare(Config(logical_replicas=3))
    assert (found.names, found.strategy_name) == (("CPU:0", "CPU:1", "CPU:2"), "MirroredStrategy")
    assert found.strategy.num_replicas_in_sync == 3


@no_gpu
def test_mirrored_strategy_can_be_had_on_one_device():
    assert prepare(Config(strategy="mirrored")).strategy_name == "MirroredStrategy"


def test_several_workers_are_refused_where_tf_config_names_none():
    with pytest.raises(
        DeviceError, match="--strategy=multi_worker: TF_CONFIG does not name several"
    ):
        prepare(Config(strategy="multi_worker"))


@pytest.mark.parametrize("config", [Config(strategy="mirrored"), Config(logical_replicas=2)])
def test_other_strategies_are_refused_where_tf_config_names_several_workers(config):
    with pytest.raises(
        DeviceError, match="TF_CONFIG names 2 workers, which need --strategy=multi_worker"
    ):
        prepare(config, Cluster(("127.0.0.1:1", "127.0.0.1:2")))


def test_batch_smaller_than_the_replicas_is_refused():
    with pytest.raises(
        DeviceError, match="--batch_size=3: expected at least one picture for each of 4 replicas"
    ):
        prepare(Config(logical_replicas=4, batch_size=3))


@no_gpu
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(require_gpu=True), "--require_gpu: TensorFlow sees no GPU on this machine"),
        (Config(gpus="1"), "--gpus=1: there is no GPU 1; TensorFlow sees 0"),
    ],
)
def test_gpu_that_is_not_there_is_named(config, message, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DeviceError) as error:
        prepare(config)
    assert message in str(error.value)


@no_gpu
def test_gpu_that_only_the_driver_sees_is_told_with_the_cure(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA L4 (UUID: GPU-0)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        DeviceError,
        match="the driver lists 1 GPU.s. but TensorFlow sees none: install its GPU libraries",
    ):
        prepare(Config(require_gpu=True))


@no_gpu
@pytest.mark.parametrize("hidden", ["", "-1"])
def test_gpu_that_the_environment_hides_is_told_so(hidden, tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA L4 (UUID: GPU-0)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    with pytest.raises(DeviceError, match=f"none: CUDA_VISIBLE_DEVICES={hidden} hides them; unset"):
        prepare(Config(require_gpu=True))


def test_every_kind_of_gpu_that_has_to_compile_is_told_once():
    gpus = [
        {"device_name": "NVIDIA B200", "compute_capability": (10, 0)},
        {"device_name": "NVIDIA B200", "compute_capability": (10, 0)},
        {"device_name": "NVIDIA L4", "compute_capability": (8, 9)},
        {"device_name": "GPU of another vendor"},
    ]
    if not tf.sysconfig.get_build_info().get("is_cuda_build"):
        pytest.skip("TensorFlow without CUDA")
    (line,) = devices.compilation_notes(gpus)
    assert line.startswith("NVIDIA B200 (compute capability 10.0): TensorFlow holds no code")


@no_gpu
def test_more_replicas_than_an_initialised_process_allows_are_refused():
    tf.config.list_logical_devices()
    with pytest.raises(
        DeviceError,
        match="TensorFlow already uses other devices in this process .*; start a new",
    ):
        prepare(Config(logical_replicas=9))


@no_gpu
@pytest.mark.parametrize(
    ("asked", "variant", "processor", "precision"),
    [
        ("none", "augmented", "avx512f amx_bf16 amx_tile", "float32"),
        ("auto", "plain", "avx512f amx_bf16 amx_tile", "float32"),
        ("bfloat16", "transfer", "avx2", "mixed_bfloat16"),
        ("auto", "augmented", "avx512f amx_bf16 amx_tile", "mixed_bfloat16"),
        ("auto", "transfer", "avx512f amx_bf16 amx_tile", "float32"),
        ("auto", "preprocessed", "avx512f avx512_bf16", "float32"),
    ],
)
def test_precision_is_what_the_processor_is_made_for(
    asked, variant, processor, precision, monkeypatch, tmp_path
):
    processors = tmp_path / "cpuinfo"
    processors.write_text(f"processor: 0\nflags : fpu {processor}\n")
    monkeypatch.setattr(devices, "_PROCESSORS", processors)
    assert prepare(Config(mixed_precision=asked, variant=variant)).precision == precision


def test_xla_on_several_replicas_is_refused():
    with pytest.raises(
        DeviceError,
        match="--jit with 2 replicas: XLA compiles for one device; give --strategy=none",
    ):
        prepare(Config(jit=True, logical_replicas=2))


def test_xla_that_is_to_be_deterministic_is_refused():
    with pytest.raises(
        DeviceError, match="--jit with --deterministic: XLA has no deterministic max pooling"
    ):
        prepare(Config(jit=True, deterministic=True))


# What tf.sysconfig.get_build_info() says of the wheel of TensorFlow 2.21 for Linux x86-64.
BUILDS = ("sm_60", "sm_70", "sm_80", "sm_89", "compute_90")


def test_builds_are_those_of_the_installed_tensorflow():
    info = tf.sysconfig.get_build_info()
    if not info.get("is_cuda_build"):
        pytest.skip("TensorFlow without CUDA")
    assert tuple(info["cuda_compute_capabilities"]) == BUILDS


@pytest.mark.parametrize("capability", [(6, 0), (6, 1), (7, 5), (8, 6), (8, 9)])
def test_nothing_is_compiled_where_the_same_major_version_has_code(capability):
    assert compilation_note("GPU", capability, BUILDS) == ""


def test_hopper_compiles_what_is_there_as_ptx_only():
    assert compilation_note("H100", (9, 0), BUILDS).startswith(
        "H100 (compute capability 9.0): TensorFlow compiles its small kernels"
    )
    assert compilation_note("H100", (9, 0), ["sm_80", "sm_90"]) == ""


@pytest.mark.parametrize("capability", [(10, 0), (12, 0)])
def test_newer_gpus_compile_everything(capability):
    note = compilation_note("B200", capability, BUILDS)
    assert "TensorFlow holds no code compiled for it" in note
    assert compilation_note("B200", capability, [*BUILDS, f"sm_{capability[0]}0"]) == ""


def test_code_for_a_higher_minor_version_does_not_run():
    assert compilation_note("A100", (8, 0), ["sm_89"])
    assert compilation_note("A100", (8, 0), ["sm_80a"])

import pytest
from google.cloud.aiplatform_v1.types import AcceleratorType

from trainer.cloud import machines
from trainer.errors import ConfigError


def test_default_pair_is_possible_and_fully_checked():
    machines.require_possible(machines.DEFAULT_MACHINE, machines.DEFAULT_ACCELERATOR, 1)
    assert machines.unchecked(machines.DEFAULT_MACHINE, machines.DEFAULT_ACCELERATOR) == ""


def test_every_accelerator_of_the_table_is_one_that_the_service_knows():
    kinds = {kind for kind, _ in machines._BUILT_IN.values()}
    assert kinds <= {member.name for member in AcceleratorType}


@pytest.mark.parametrize(
    ("machine", "accelerator", "count"),
    [
        ("g2-standard-96", "NVIDIA_L4", 8),
        ("g4-standard-384", "NVIDIA_RTX_PRO_6000", 8),
        ("a2-megagpu-16g", "NVIDIA_TESLA_A100", 16),
    ],
)
def test_pair_of_the_table_passes(machine, accelerator, count):
    machines.require_possible(machine, accelerator, count)


@pytest.mark.parametrize(
    ("machine", "accelerator", "count", "message"),
    [
        (
            "g2-standard-8",
            "NVIDIA_L4",
            2,
            (
                "g2-standard-8 is built with 1 NVIDIA_L4; give --accelerator=NVIDIA_L4"
                " --accelerator_count=1"
            ),
        ),
        ("g2-standard-8", "NVIDIA_TESLA_T4", 1, "g2-standard-8 is built with 1 NVIDIA_L4"),
        ("a2-highgpu-4g", "", 1, "a2-highgpu-4g is built with 4 NVIDIA_TESLA_A100"),
        ("n1-standard-8", "NVIDIA_B200", 8, "NVIDIA_B200 is built into a4-highgpu-8g only"),
        ("g2-standard-9", "NVIDIA_L4", 1, "give one of these machines"),
        ("n1-standard-8", "NVIDIA_TESLA_T4", 0, "--accelerator_count=0: expected at least 1"),
        ("", "", 1, "--machine=: expected a machine type, such as g2-standard-8"),
        ("a4x-highgpu-4g", "NVIDIA_GB200", 4, "the processors there are Arm"),
        ("a4x-maxgpu-4g", "NVIDIA_GB300", 4, "the processors there are Arm"),
        ("n1-standard-8", "NVIDIA_GB200", 4, "the processors there are Arm"),
        ("c4a-standard-8", "", 0, "the trainer's image is for x86-64; give another machine"),
        ("t2a-standard-8", "", 0, "the processors there are Arm"),
        ("e2\nx: y", "", 0, "expected a machine type"),
        ("--help", "", 0, "--machine=--help: expected a machine type"),
        ("e2-standard-8", "T4\nx", 1, "expected an accelerator type"),
    ],
)
def test_impossible_pair_is_refused_with_what_fits(machine, accelerator, count, message):
    with pytest.raises(ConfigError) as refusal:
        machines.require_possible(machine, accelerator, count)
    assert message in str(refusal.value)


def test_n1_machine_passes_and_is_named_as_unchecked():
    machines.require_possible("n1-standard-8", "NVIDIA_TESLA_T4", 4)
    assert (
        machines.unchecked("n1-standard-8", "NVIDIA_TESLA_T4")
        == "that n1-standard-8 exists and takes NVIDIA_TESLA_T4 in this number"
    )


def test_machine_without_accelerator_passes_and_its_name_is_unchecked():
    machines.require_possible("e2-standard-8", "", 1)
    assert machines.unchecked("e2-standard-8", "") == "that e2-standard-8 exists"


def test_compute_capability_of_every_accelerator_of_the_table_is_known():
    assert {kind for kind, _ in machines._BUILT_IN.values()} <= set(machines._CAPABILITIES)
    assert set(machines._CAPABILITIES) <= {member.name for member in AcceleratorType}


@pytest.mark.parametrize("accelerator", ["NVIDIA_TESLA_T4", "NVIDIA_L4", "NVIDIA_A100_80GB", ""])
def test_accelerators_that_tensorflow_is_compiled_for_need_no_note(accelerator):
    assert machines.compilation(accelerator) == ""


@pytest.mark.parametrize(
    ("accelerator", "note"),
    [
        ("NVIDIA_H200_141GB", "(compute capability 9.0): TensorFlow compiles its small kernels"),
        ("NVIDIA_B200", "(compute capability 10.0): TensorFlow holds no code compiled for it"),
        ("NVIDIA_RTX_PRO_6000", "(compute capability 12.0): TensorFlow holds no code"),
    ],
)
def test_newer_accelerators_compile_in_every_job(accelerator, note):
    found = machines.compilation(accelerator)
    assert found.startswith(f"{accelerator} {note}")
    assert found.endswith("Every job pays this, as its disk ends with it")

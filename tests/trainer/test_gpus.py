import pytest
import tensorflow as tf

from trainer.gpus import BUILDS, compilation_note


def test_builds_are_those_of_the_installed_tensorflow():
    info = tf.sysconfig.get_build_info()
    if not info.get("is_cuda_build"):
        pytest.skip("TensorFlow without CUDA")
    assert tuple(info["cuda_compute_capabilities"]) == BUILDS


@pytest.mark.parametrize("capability", [(6, 0), (6, 1), (7, 5), (8, 6), (8, 9)])
def test_nothing_is_compiled_where_the_same_major_version_has_code(capability):
    assert compilation_note("GPU", capability) == ""


def test_hopper_compiles_what_is_there_as_ptx_only():
    assert compilation_note("H100", (9, 0)).startswith(
        "H100 (compute capability 9.0): TensorFlow compiles its small kernels"
    )
    assert compilation_note("H100", (9, 0), ["sm_80", "sm_90"]) == ""


@pytest.mark.parametrize("capability", [(10, 0), (12, 0)])
def test_newer_gpus_compile_everything(capability):
    note = compilation_note("B200", capability)
    assert "TensorFlow holds no code compiled for it" in note
    assert compilation_note("B200", capability, [*BUILDS, f"sm_{capability[0]}0"]) == ""


def test_code_for_a_higher_minor_version_does_not_run():
    assert compilation_note("A100", (8, 0), ["sm_89"])
    assert compilation_note("A100", (8, 0), ["sm_80a"])

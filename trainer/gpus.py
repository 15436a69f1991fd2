"""For which GPUs TensorFlow's wheel holds compiled code, and what a start on the others costs.

Looked at in the wheel of TensorFlow 2.21 for Linux x86-64 on 2026-11-27: of 1,438 groups of kernels
all have code for sm_60, sm_70, sm_80 and sm_89, and PTX of compute_90; 289, the large ones, have
code for sm_90 too. PTX is text that the driver compiles.
"""

import re
from collections.abc import Sequence

# What tf.sysconfig.get_build_info() says there.
BUILDS = ("sm_60", "sm_70", "sm_80", "sm_89", "compute_90")

# The wheel's PTX is of version 8.5, which this driver is the first to read
# (docs.nvidia.com/cuda/parallel-thread-execution, release history, read on 2026-11-27).
DRIVER = 555


def compilation_note(name: str, capability: tuple[int, int], builds: Sequence[str] = BUILDS) -> str:
    """Says what TensorFlow has to compile before it computes on a GPU.

    Args:
        name: of the GPU.
        capability: its compute capability, such as ``(9, 0)``.
        builds: what TensorFlow was compiled for.

    Returns:
        Sentences without the last full stop; empty where there is nothing to compile.
    """
    if _covered(capability, "sm", builds):
        return ""
    gpu = f"{name} (compute capability {capability[0]}.{capability[1]})"
    # TensorFlow's build makes code of compute_90 for 9.0 itself, for its large kernels.
    if _covered(capability, "compute", builds):
        return (
            f"{gpu}: TensorFlow compiles its small kernels for it when they are first used; that"
            f" needs NVIDIA's driver {DRIVER} or newer"
        )
    return (
        f"{gpu}: TensorFlow holds no code compiled for it. The first start compiles, for 30 minutes"
        f" or longer by TensorFlow's own words, and needs NVIDIA's driver {DRIVER} or newer. Later"
        " starts find the result in ~/.nv/ComputeCache, or where CUDA_CACHE_PATH says"
    )


def _covered(capability: tuple[int, int], kind: str, builds: Sequence[str]) -> bool:
    """Code runs on its own compute capability and on higher ones of the same major version
    (docs.nvidia.com/cuda/hopper-compatibility-guide, section 1.2, read on 2026-11-27).
    """
    targets = (re.fullmatch(rf"{kind}_(\d+)(\d)", build) for build in builds)
    return any(
        int(target[1]) == capability[0] and int(target[2]) <= capability[1]
        for target in targets
        if target
    )

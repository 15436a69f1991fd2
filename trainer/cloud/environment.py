"""What the job service sets in a container, as settings of a run.

Set where the job has a base output directory (the description of
CustomJobSpec.base_output_directory in google-cloud-aiplatform 2.7.0):

AIP_MODEL_DIR, ``<base>/model/``, is ``--model_dir``: a model store with numbered versions, not a
single model. AIP_CHECKPOINT_DIR, ``<base>/checkpoints/``, makes ``<base>`` the run folder, which
has its checkpoints just there. AIP_TENSORBOARD_LOG_DIR, ``<base>/logs/``, gets a copy of the run
folder's ``tensorboard/``.
"""

from collections.abc import Mapping

TENSORBOARD = "AIP_TENSORBOARD_LOG_DIR"
_MODEL = "AIP_MODEL_DIR"
_CHECKPOINTS = "AIP_CHECKPOINT_DIR"


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Takes `run_dir` and `model_dir` from the variables that are set; a flag that is given wins
    over them.
    """
    found = {}
    if checkpoints := environment.get(_CHECKPOINTS, "").rstrip("/"):
        found["run_dir"] = checkpoints.removesuffix("/checkpoints")
    if model := environment.get(_MODEL, "").rstrip("/"):
        found["model_dir"] = model
    return found

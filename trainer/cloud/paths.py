"""Which of a run's paths a machine in the cloud can reach."""

from trainer.config import Config
from trainer.errors import ConfigError
from whisker_ml.files import BUCKET_SCHEME


def require_remote(config: Config) -> None:
    """Refuses a run that names files of this machine, which the cloud's machine cannot see.

    Raises:
        ConfigError: a setting names a local file or folder; the text says what to give in its
            place.
    """
    _require("data", config.data, ("sample", "cats_and_dogs"), "copy the folder to a bucket")
    _require("base_weights", config.base_weights, ("imagenet", "none"), "copy the file to a bucket")
    _require("run_dir", config.run_dir, ("",), "name a folder in a bucket")
    _require("model_dir", config.model_dir, ("",), "name a store in a bucket")


def _require(name: str, value: str, names: tuple[str, ...], cure: str) -> None:
    if value in names or (value.startswith(BUCKET_SCHEME) and value != BUCKET_SCHEME):
        return
    alternatives = "".join(f", {known}" for known in names if known)
    raise ConfigError(
        f"--{name}={value}: a job in the cloud cannot reach this machine's files; {cure} and give "
        f"--{name}={BUCKET_SCHEME}…{alternatives and ', or one of ' + alternatives[2:]}"
    )

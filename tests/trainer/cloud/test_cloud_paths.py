import pytest

from trainer.cloud.submission import require_remote
from trainer.config import Config
from trainer.errors import ConfigError


@pytest.mark.parametrize("data", ["sample", "cats_and_dogs", "gs://bucket/pictures"])
def test_run_whose_paths_are_names_or_buckets_passes(data):
    require_remote(
        Config(
            data=data,
            base_weights="gs://bucket/w.h5",
            run_dir="gs://bucket/r",
            model_dir="gs://bucket/m",
        )
    )


def test_run_without_run_and_model_folders_passes():
    require_remote(Config(run_dir="", model_dir=""))


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        (
            "data",
            "pictures",
            "copy the folder to a bucket and give --data=gs://…, or one of sample, cats_and_dogs",
        ),
        ("data", "./sample", "give --data=gs://…"),
        ("data", "gs://", "give --data=gs://…"),
        (
            "base_weights",
            "weights/w.h5",
            "copy the file to a bucket and give --base_weights=gs://…, or one of imagenet, none",
        ),
        ("run_dir", "runs/1", "name a folder in a bucket and give --run_dir=gs://…"),
        ("model_dir", "models", "name a store in a bucket and give --model_dir=gs://…"),
    ],
)
def test_path_of_this_machine_is_refused_with_its_cure(name, value, remedy):
    with pytest.raises(ConfigError) as refusal:
        require_remote(Config(**{name: value}))
    assert str(refusal.value).startswith(f"--{name}={value}: a job in the cloud cannot reach")
    assert remedy in str(refusal.value)

import pytest

from trainer.cloud.submission import environment_settings


def test_folders_of_the_service_are_those_of_the_run():
    # As CustomJobSpec.base_output_directory describes them; the third is not a setting.
    assert environment_settings(
        {
            "AIP_MODEL_DIR": "gs://b/out/model/",
            "AIP_CHECKPOINT_DIR": "gs://b/out/checkpoints/",
            "AIP_TENSORBOARD_LOG_DIR": "gs://b/out/logs/",
            "CLOUD_ML_PROJECT_ID": "1",
        }
    ) == {"run_dir": "gs://b/out", "model_dir": "gs://b/out/model"}


@pytest.mark.parametrize("environment", [{}, {"AIP_MODEL_DIR": "", "AIP_CHECKPOINT_DIR": ""}])
def test_nothing_set_says_nothing(environment):
    assert environment_settings(environment) == {}


def test_folder_of_another_name_is_the_run_folder_itself():
    assert environment_settings({"AIP_CHECKPOINT_DIR": "gs://b/mine"}) == {"run_dir": "gs://b/mine"}

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from tests.trained_model import give_statistics, load_examples, logged, write_pictures
from trainer import training
from trainer.config import Config
from trainer.devices import prepare
from trainer.errors import RunStopped
from trainer.training import Stages
from trainer.training.features import extract, split_backbone
from trainer.training.observers import Observers
from trainer.variants import HEADS
from trainer.variants.models import build, unfreeze_top
from trainer.variants.objective import Objective

SIZE = 32
CONFIG = Config(
    variant="transfer",
    base_weights="none",
    image_size=SIZE,
    epochs=2,
    fine_tune_epochs=2,
    batch_size=16,
    learning_rate="0.02",
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = write_pictures(tmp_path_factory.mktemp("stages") / "pictures", per_class=25)
    return load_examples(folder, SIZE)


class Run:
    """One process' worth of training in stages: everything new but the folder."""

    def __init__(self, pictures, folder, config=CONFIG, stop=lambda: False):
        examples, self.ledger = pictures
        self.folder, self.lines = folder, []
        folder.mkdir(exist_ok=True)
        keras.utils.set_random_seed(0)
        self.model = build("transfer", SIZE, Objective(2), seed=0)
        backbone = next(layer for layer in self.model.layers if isinstance(layer, keras.Model))
        give_statistics(backbone, examples.pictures(examples.indices("train")).astype(np.float32))
        observers = Observers(config, len(examples.indices("train")), folder)
        session = SimpleNamespace(
            devices=prepare(config),
            folder=SimpleNamespace(path=folder, synchronise=lambda: None),
            stop=SimpleNamespace(requested=stop),
        )
        self.stages = Stages(config, session, self.model, Objective(2), examples, observers)

    def variables(self):
        return {variable.path: variable.value.numpy().copy() for variable in self.model.variables}

    def both(self):
        with logged(self.lines):
            history = self.stages.train(None)
            return self.stages.fine_tune(history, len(history.loss))


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    run = Run(pictures, tmp_path_factory.mktemp("whole") / "run")
    history = run.stages.train(None)
    before = run.variables()
    return run, before, run.stages.fine_tune(history, len(history.loss))


def test_fine_tuning_changes_the_top_of_the_backbone_and_no_statistics(whole):
    run, before, history = whole
    assert len(history.loss) == 4
    after = run.variables()
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    backbone = {
        path for path in changed if "block_" in path or "Conv_1" in path or "expanded_conv" in path
    }
    assert history.best_epoch(2) > 2, "the test needs fine-tuning that helps"
    assert backbone, "the top has been trained"
    assert not {path for path in changed if "moving_" in path}
    assert not {
        path
        for path in backbone
        if not any(name in path for name in ("block_14", "block_15", "block_16", "Conv_1"))
    }


def test_top_of_the_backbone_is_trainable_and_runs_with_fixed_statistics():
    model = build("transfer", SIZE, Objective(2), seed=0)
    head_alone = len(model.trainable_variables)
    unfreeze_top(model, "mobilenet_v2")
    assert len(model.trainable_variables) > head_alone
    statistics = [variable for variable in model.variables if "moving_" in variable.path]
    before = [variable.value.numpy().copy() for variable in statistics]
    model(np.full((4, SIZE, SIZE, 3), 250, np.float32), training=True)
    for old, variable in zip(before, statistics, strict=True):
        np.testing.assert_array_equal(old, variable.value)


def test_fine_tuning_that_makes_it_worse_is_undone(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_FINE_TUNE_RATE", 3000.0)
    run = Run(pictures, tmp_path / "run")
    history = run.stages.train(None)
    before = run.variables()
    with logged(run.lines):
        history = run.stages.fine_tune(history, len(history.loss))
    assert min(history.validation_loss[2:]) > history.validation_loss[1], (
        "the test needs a rate that destroys"
    )
    assert run.lines[-1] == "keeping epoch 2, which has the lowest validation loss"
    after = run.variables()
    for path, value in before.items():
        if "seed" not in path:
            np.testing.assert_array_equal(value, after[path], err_msg=path)


def test_run_stopped_in_its_second_stage_resumes_there(pictures, whole, tmp_path):
    def in_second_stage():
        return any(line.startswith("epoch 3") for line in first.lines)

    first = Run(pictures, tmp_path / "run", stop=in_second_stage)
    with pytest.raises(RunStopped):
        first.both()
    second = Run(pictures, tmp_path / "run")
    history = second.both()
    assert any(line.startswith("resuming after epoch 3") for line in second.lines)
    assert history.validation_loss == whole[2].validation_loss
    for expected, variable in zip(whole[0].model.variables, second.model.variables, strict=True):
        np.testing.assert_array_equal(expected.value, variable.value, err_msg=variable.path)


@pytest.mark.parametrize(
    ("recipe", "fine_tune_epochs"), [("fast", 0), ("fast", 2), ("notebook", 0)]
)
def test_features_lead_to_the_answers_of_the_whole_model(
    recipe, fine_tune_epochs, pictures, tmp_path
):
    examples, ledger = pictures
    config = Config(
        variant="transfer",
        recipe=recipe,
        base_weights="none",
        image_size=SIZE,
        fine_tune_epochs=fine_tune_epochs,
    )
    model = build("transfer", SIZE, Objective(2), seed=0, head=HEADS[config.head])
    features = None
    if config.feature_views:
        extractor, _ = split_backbone(model)
        features = extract(
            examples, ledger, extractor, views=1, seed=0, cache_folder=tmp_path / "cache"
        )
    predict, from_pixels, classify = training._predictors(config, model, examples, features)
    positions = examples.indices("test")[::-2]
    pixels = examples.pictures(positions).astype(np.float32)
    expected = model(pixels, training=False).numpy()
    for logits, found in (predict(positions), from_pixels(positions)):
        np.testing.assert_allclose(logits, expected, atol=1e-4)
        assert found.shape == (len(positions), split_backbone(model)[0].output.shape[1])
    np.testing.assert_allclose(classify(pixels), expected, atol=1e-4)

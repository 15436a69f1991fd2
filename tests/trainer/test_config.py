from dataclasses import asdict

import pytest

from trainer.config import Config, LearningRate
from trainer.errors import ConfigError
from trainer.variants import VARIANTS


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "--epochs=0: expected at least 1"),
        ({"epochs": -2}, "--epochs=-2: expected at least -1"),
        ({"epochs": True}, "--epochs=True: expected a value of type int, received bool"),
        (
            {"learning_rate": 0.0},
            "--learning_rate=0: expected a number above 0, such as 0.001, cosine:0.001",
        ),
        ({"learning_rate": float("nan")}, "--learning_rate=nan: expected a number above 0"),
        (
            {"learning_rate": "cosinus:0.1"},
            "--learning_rate=cosinus:0.1: expected a number above 0, such as 0.001, cosine",
        ),
        (
            {"profile_steps": "9,3"},
            "--profile_steps=9,3: expected two numbers, the smaller one first, such as 20,40",
        ),
        (
            {"recipe": "best", "variant": "augmented"},
            "--recipe=best with --variant=augmented: expected one of notebook",
        ),
        (
            {"variant": "transfer", "augmentation": "strong"},
            "--augmentation=strong with --feature_views=1: features of untouched pictures are not",
        ),
        (
            {"variant": "plain", "head": "wide"},
            "--head=wide with --variant=plain: only transfer has a backbone",
        ),
        (
            {"variant": "plain", "backbone": "densenet121"},
            "--backbone=densenet121 with --variant=plain: only transfer has a backbone",
        ),
        (
            {"recipe": "fast", "variant": "plain"},
            "--recipe=fast with --variant=plain: expected one of notebook",
        ),
        (
            {"fine_tune_epochs": 2},
            "--fine_tune_epochs=2 with --variant=preprocessed: only transfer has a backbone",
        ),
        (
            {"feature_views": 1},
            "--feature_views=1 with --variant=preprocessed: only transfer has a backbone",
        ),
        (
            {"augmentation": "strong", "variant": "plain"},
            "--augmentation=strong with --variant=plain: this variant trains on untouched pictures",
        ),
        ({"image_size": 8}, "--image_size=8: expected at least 32"),
        ({"variant": "transfre"}, "did you mean transfer?"),
        ({"split": "random"}, "--split=random: expected given, hold_out, or percentages"),
        ({"gpus": "first"}, "--gpus=first: expected numbers separated by commas, such as 0,1"),
        ({"gate": "loose"}, "--gate=loose: expected one of not_worse, strict, off"),
        ({"gate_margin": float("nan")}, "--gate_margin=nan: expected at least 0"),
        ({"model_name": "a/b"}, "--model_name=a/b: expected a plain name without '/'"),
        (
            {"logical_replicas": 2, "strategy": "none"},
            "several replicas need --strategy=auto or mirrored",
        ),
    ],
)
def test_value_out_of_range_is_refused_with_what_is_expected(values, message):
    with pytest.raises(ConfigError) as error:
        Config(**values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        (1e-3, LearningRate("constant", 1e-3)),
        ("0.01", LearningRate("constant", 0.01)),
        ("cosine:0.1", LearningRate("cosine", 0.1)),
        ("plateau:1e-4", LearningRate("plateau", 1e-4)),
    ],
)
def test_learning_rate_names_a_schedule_or_none(given, rate):
    assert Config(learning_rate=given).rate == rate


def test_whole_number_is_a_margin_too():
    assert Config(gate_margin=3) == Config(gate_margin=3.0)


@pytest.mark.parametrize(
    ("variant", "recipe"),
    [(name, recipe) for name, variant in VARIANTS.items() for recipe in variant.recipes],
)
def test_recipe_decides_settings_that_no_flag_gives(recipe, variant):
    decided = VARIANTS[variant].recipes[recipe]
    config = Config(recipe=recipe, variant=variant)
    assert {name: getattr(config, name) for name in decided} == decided
    assert Config(**asdict(config)) == config


@pytest.mark.parametrize(
    ("settings", "recipe", "image_size"),
    [
        ({"variant": "plain"}, "notebook", 160),
        ({"variant": "transfer"}, "fast", 160),
        ({"variant": "transfer", "backbone": "efficientnet_v2_b3"}, "fast", 300),
        ({"variant": "transfer", "backbone": "densenet121"}, "fast", 224),
        ({"variant": "transfer", "backbone": "densenet121", "image_size": 64}, "fast", 64),
        ({"variant": "transfer", "recipe": "best"}, "best", 224),
        ({"variant": "transfer", "recipe": "best", "image_size": 96}, "best", 96),
        (
            {"variant": "transfer", "recipe": "best", "backbone": "efficientnet_v2_b3"},
            "best",
            300,
        ),
        ({"variant": "preprocessed", "recipe": "best"}, "best", 160),
    ],
)
def test_defaults_follow_variant_and_backbone(settings, recipe, image_size):
    config = Config(**settings)
    assert (config.recipe, config.image_size) == (recipe, image_size)


def test_augmentation_is_recorded_where_there_is_any():
    assert Config(variant="transfer").augmentation == ""
    assert Config(variant="transfer", feature_views=3).augmentation == "light"
    assert Config(variant="transfer", recipe="notebook").augmentation == "light"
    assert Config(variant="transfer", fine_tune_epochs=2).augmentation == "light"
    assert Config(variant="preprocessed", recipe="best").augmentation == "strong"


def test_flag_wins_over_the_recipe():
    config = Config(
        recipe="best",
        variant="transfer",
        epochs=3,
        learning_rate="0.01",
        early_stopping=0,
        feature_views=0,
        fine_tune_epochs=0,
        augmentation="light",
    )
    assert (config.epochs, config.learning_rate, config.early_stopping) == (3, "0.01", 0)
    assert (config.feature_views, config.fine_tune_epochs) == (0, 0)
    assert config.augmentation == "light"

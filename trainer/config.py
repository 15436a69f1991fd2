"""The settings of one run: every name, default, bound and meaning, once; the flags are made from
these fields.
"""

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any

from trainer.errors import ConfigError
from trainer.variants import BACKBONES, HEADS, RECIPES, VARIANTS
from whisker_ml.cli import setting
from whisker_ml.contract import DEFAULT_MODEL_NAME
from whisker_ml.formats import MAX_PIXELS

# What stands for "as the recipe says" in a setting that a recipe decides.
_BY_RECIPE: dict[type, Any] = {int: -1, str: ""}


def split_percentages(split: str) -> tuple[int, int, int]:
    """Reads percentages of train, validation and test, such as ``70,15,15``.

    Raises:
        ConfigError: they are not three numbers above 0 that add up to 100.
    """
    parts = split.split(",")
    numbers = tuple(int(part) for part in parts if part.isdecimal())
    if len(parts) != 3 or len(numbers) != 3 or not all(numbers) or sum(numbers) != 100:
        raise ConfigError(
            f"--split={split}: expected given, hold_out, or percentages of train, validation and"
            " test above 0 that add up to 100, such as 70,15,15"
        )
    return numbers[0], numbers[1], numbers[2]


@dataclass(frozen=True)
class LearningRate:
    """A schedule (constant, cosine or plateau) and its highest rate."""

    schedule: str
    peak: float


# What runs did before there were these settings, for configs that lack them.
OF_BEFORE = {"backbone": "mobilenet_v2", "exclude": ""}


@dataclass(frozen=True)
class Config:
    """One run's settings, checked when made.

    Raises:
        ConfigError: a value is out of its range; the text names the flag, the value and what is
            expected.
    """

    data: str = setting(
        "sample",
        "pictures to train on: sample (drawn by the program), cats_and_dogs (downloaded once), a"
        " folder of class folders, a CSV file with path,label[,split], or gs://bucket/folder",
        group="Data",
    )
    image_size: int = setting(
        -1,
        "side in pixels of the square that pictures are resized to, at least 32; -1: what the"
        " backbone was trained with, else 160; for --recipe=best of transfer 224 or more",
    )
    batch_size: int = setting(32, "pictures per step over all replicas", minimum=1)
    split: str = setting(
        "given",
        "given: one fifth of a given validation folder becomes the test set; hold_out: all of it"
        " becomes the test set, and one fifth of train the validation set; percentages of train,"
        " validation and test"
        " such as 70,15,15: for folders without splits",
    )
    classes: str = setting(
        "folders",
        "folders: each folder in the data folder, or in a split folder, is a class; leaves: each"
        " folder that holds pictures is a class, named by its path, such as Fruit/Apple",
        choices=("folders", "leaves"),
    )
    exclude: str = setting(
        "",
        "file with a line for each picture to leave out: its SHA-256, its path in the data"
        " folder, or both (whisker-data suspects writes such a file); local or gs://; empty: none",
    )
    max_pixels: int = setting(
        MAX_PIXELS,
        "largest width times height of a picture, in training and in the exported model; larger"
        " pictures are left out",
        minimum=1,
    )
    on_bad_image: str = setting(
        "skip",
        "skip: leave out and list pictures that cannot be decoded; fail: stop",
        choices=("skip", "fail"),
    )
    class_weights: str = setting(
        "none",
        "none: every picture weighs the same in training; balanced: every class weighs the same",
        choices=("none", "balanced"),
    )
    cache: str = setting(
        "auto",
        "where decoded pictures are kept: memory; disk: until the run ends; none: decode them"
        " again in every epoch; auto: memory if they fit, else disk, else none",
        choices=("auto", "memory", "disk", "none"),
    )
    cache_dir: str = setting(
        "",
        "folder for downloads, and for features that are computed once; empty:"
        " $XDG_CACHE_HOME/whisker or ~/.cache/whisker",
    )
    variant: str = setting("preprocessed", "model to train", choices=tuple(VARIANTS), group="Model")
    backbone: str = setting(
        "mobilenet_v2",
        "transfer only: the model whose features are used",
        choices=tuple(BACKBONES),
    )
    base_weights: str = setting(
        "imagenet",
        "transfer only: weights of the backbone: imagenet (downloaded once), none, a .h5 file, or"
        " gs://…",
    )
    recipe: str = setting(
        "",
        "sets the defaults of other flags: notebook: 20 epochs, with new augmentation in each;"
        " fast (transfer only): train the head on features that are computed once; best (transfer"
        " and preprocessed): the highest accuracy that was measured, at several times the cost;"
        " empty: fast for transfer, else notebook",
        choices=("", *RECIPES),
    )
    head: str = setting(
        "",
        "transfer only: what follows the backbone: multiscale: average pooling, of an earlier layer"
        " too and there by quarters of the picture, dropout of 0.5; wide: average pooling, a dense"
        " layer of 512, dropout of 0.5; notebook: max pooling, a dense layer of 128, dropout of"
        " 0.2; empty: the recipe's",
        choices=("", *HEADS),
    )
    feature_views: int = setting(
        -1,
        "transfer only: compute features once, of this many views of each training picture: the"
        " picture itself, then augmented copies; 0: train on pictures, with new augmentation in"
        " each epoch; -1: the"
        " recipe's",
        minimum=-1,
    )
    epochs: int = setting(-1, "passes over the training pictures; -1: the recipe's", minimum=-1)
    learning_rate: str = setting(
        "",
        "step size of Adam, such as 0.001; cosine:RATE rises over a tenth of the steps, then falls"
        " to 0; plateau:RATE is halved after 3 epochs without a lower validation loss; empty: the"
        " recipe's",
    )
    fine_tune_epochs: int = setting(
        -1,
        "transfer only: further epochs at a low rate that also train the top of the backbone; the"
        " result is kept only if the validation loss falls; -1: the recipe's",
        minimum=-1,
    )
    early_stopping: int = setting(
        -1,
        "stop after this many epochs without a lower validation loss, and keep the best epoch; 0:"
        " train all epochs and keep the last; -1: the recipe's",
        minimum=-1,
    )
    augmentation: str = setting(
        "",
        "random changes in training: light: mirrored, turned; strong: also zoomed, moved, and"
        " with other contrast; empty: the recipe's",
        choices=("", "light", "strong"),
    )
    seed: int = setting(0, "seed of weights, order and augmentation", minimum=0)
    deterministic: bool = setting(
        False, "every run on the same machine gives the same bits; slower"
    )
    strategy: str = setting(
        "auto",
        "auto: multi_worker where TF_CONFIG names several workers, mirrored where there are several"
        " devices, else none; none: one device; mirrored: MirroredStrategy; multi_worker:"
        " MultiWorkerMirroredStrategy",
        choices=("auto", "none", "mirrored", "multi_worker"),
        group="Devices",
    )
    gpus: str = setting("", "numbers of the GPUs to use, such as 0,1; empty: all of them")
    require_gpu: bool = setting(False, "stop where TensorFlow sees no GPU")
    logical_replicas: int = setting(
        1,
        "split one device into this many logical ones, to try several replicas on any machine",
        minimum=1,
    )
    mixed_precision: str = setting(
        "auto",
        "auto: bfloat16 where the GPU (compute capability 8.0 or higher) or the CPU (AMX) computes"
        " it faster; never for plain, and for transfer only on a GPU; none: float32; bfloat16:"
        " always",
        choices=("auto", "none", "bfloat16"),
    )
    jit: bool = setting(
        False, "compile the training step with XLA, on one device; on CPUs it is slower"
    )
    run_dir: str = setting(
        "", "run folder, local or gs://; empty: runs/<time>-<variant>", group="Run"
    )
    resume: str = setting(
        "auto",
        "auto: the same command resumes a run that was stopped, was killed, or failed for a"
        " reason that you have fixed; never: begin a new run",
        choices=("auto", "never"),
    )
    profile_steps: str = setting(
        "", "first and last step to profile for TensorBoard, such as 20,40; empty: none"
    )
    model_dir: str = setting(
        "", "model store to publish to, local or gs://; empty: do not publish", group="Publish"
    )
    model_name: str = setting(
        DEFAULT_MODEL_NAME, "name of the model in the store and on the server"
    )
    gate: str = setting(
        "not_worse",
        "not_worse: refuse a model that is broken, or worse than the live one on the test pictures;"
        " strict: also refuse when the test pictures cannot show that the model is not worse;"
        " off: publish any model",
        choices=("not_worse", "strict", "off"),
    )
    gate_margin: float = setting(
        2.0,
        "how many points of test accuracy a model may lose and still count as not worse",
        minimum=0,
    )

    def __post_init__(self) -> None:
        if isinstance(self.learning_rate, float):
            # From Python a plain number is the natural thing to give.
            object.__setattr__(self, "learning_rate", f"{self.learning_rate:g}")
        for field in dataclasses.fields(self):
            check_setting(field, getattr(self, field.name))
        if self.logical_replicas > 1 and self.strategy == "none":
            raise ConfigError(
                f"--logical_replicas={self.logical_replicas} with --strategy=none: several replicas"
                " need --strategy=auto or mirrored"
            )
        if self.gpus and not all(number.isdigit() for number in self.gpus.split(",")):
            raise ConfigError(
                f"--gpus={self.gpus}: expected numbers separated by commas, such as 0,1"
            )
        if self.split not in ("given", "hold_out"):
            split_percentages(self.split)
        self._follow_recipe()
        _ = self.rate, self.profile_window
        if not self.model_name or "/" in self.model_name or self.model_name.startswith("."):
            raise ConfigError(
                f"--model_name={self.model_name}: expected a plain name without '/', such as"
                " whisker"
            )

    def _follow_recipe(self) -> None:
        """Fills in what the recipe decides, so that a config holds what is done."""
        variant = VARIANTS[self.variant]
        if not self.recipe:
            object.__setattr__(self, "recipe", next(iter(variant.recipes)))
        recipe = variant.recipes.get(self.recipe)
        if recipe is None:
            raise ConfigError(
                f"--recipe={self.recipe} with --variant={self.variant}: expected one of"
                f" {', '.join(variant.recipes)}"
            )
        if self.image_size == -1:
            size = BACKBONES[self.backbone].image_size if variant.backbone else 160
            object.__setattr__(self, "image_size", max(size, recipe.get("image_size", 0)))
        if self.image_size < 32:
            raise ConfigError(f"--image_size={self.image_size}: expected at least 32")
        if self.augmentation and not variant.augmented:
            raise ConfigError(
                f"--augmentation={self.augmentation} with --variant={self.variant}: this variant"
                " trains on untouched pictures"
            )
        for name, value in recipe.items():
            if getattr(self, name) == _BY_RECIPE[type(value)]:
                object.__setattr__(self, name, value)
        if self.epochs == 0:
            raise ConfigError("--epochs=0: expected at least 1")
        without = {
            "backbone": "mobilenet_v2",
            "feature_views": 0,
            "fine_tune_epochs": 0,
            "head": "",
        }
        for name, value in without.items():
            if getattr(self, name) != value and not variant.backbone:
                raise ConfigError(
                    f"--{name}={getattr(self, name)} with --variant={self.variant}: only transfer"
                    " has a backbone"
                )
        untouched = self.feature_views == 1 and not self.fine_tune_epochs
        if self.augmentation and untouched:
            raise ConfigError(
                f"--augmentation={self.augmentation} with --feature_views=1: features of untouched"
                " pictures are not augmented; give --feature_views=4, or --recipe=notebook"
            )
        if variant.augmented and not self.augmentation and not untouched:
            object.__setattr__(self, "augmentation", "light")

    @property
    def rate(self) -> LearningRate:
        """What `learning_rate` says."""
        schedule, _, number = self.learning_rate.rpartition(":")
        try:
            peak = float(number)
        except ValueError:
            peak = math.nan
        if schedule not in ("", "cosine", "plateau") or not (peak > 0 and math.isfinite(peak)):
            raise ConfigError(
                f"--learning_rate={self.learning_rate}: expected a number above 0, such as 0.001,"
                " cosine:0.001 or plateau:0.001"
            )
        return LearningRate(schedule or "constant", peak)

    @property
    def profile_window(self) -> tuple[int, int] | None:
        """What `profile_steps` says."""
        if not self.profile_steps:
            return None
        first, _, last = self.profile_steps.partition(",")
        if not (first.isdigit() and last.isdigit() and 0 < int(first) < int(last)):
            raise ConfigError(
                f"--profile_steps={self.profile_steps}: expected two numbers, the smaller one"
                " first, such as 20,40"
            )
        return int(first), int(last)


def check_setting(field: dataclasses.Field[Any], value: Any) -> None:
    """Refuses what the field of a settings dataclass cannot hold.

    Raises:
        ConfigError: its type, choices or minimum are others.
    """
    kind = type(field.default)
    meta = field.metadata
    flag = f"--{field.name}={value}"
    if type(value) not in ((int, float) if kind is float else (kind,)):
        raise ConfigError(
            f"{flag}: expected a value of type {kind.__name__}, received {type(value).__name__}"
        )
    if meta["choices"] and value not in meta["choices"]:
        near = difflib.get_close_matches(value, meta["choices"], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        choices = ", ".join(filter(None, meta["choices"]))
        raise ConfigError(f"{flag}: expected one of {choices}{hint}")
    if meta["minimum"] is not None and not value >= meta["minimum"]:
        raise ConfigError(f"{flag}: expected at least {meta['minimum']}")

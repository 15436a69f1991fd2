"""The model variants, and the backbones of `transfer`: a table says what each of them is. Importing
it imports no TensorFlow.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Scaling:
    """How pixels of 0…255 become what a model is trained on: times `scale`, plus `offset`.

    Attributes:
        scale: one number, or one of each colour.
        offset: as many.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]

    @property
    def range(self) -> tuple[float, float]:
        """Least and most that comes out."""
        black_and_white = [
            pixel * scale + offset
            for pixel in (0, 255)
            for scale, offset in zip(self.scale, self.offset, strict=True)
        ]
        return min(black_and_white), max(black_and_white)


# By the names that `preprocess_input` of keras.applications.imagenet_utils has for them; its source
# has the means and deviations of ImageNet's colours. `own`: the backbone begins with its scaling.
TF = Scaling((1 / 127.5,), (-1.0,))
_MEANS, _DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCH = Scaling(
    tuple(1 / 255 / deviation for deviation in _DEVIATIONS),
    tuple(-mean / deviation for mean, deviation in zip(_MEANS, _DEVIATIONS, strict=True)),
)
OWN = Scaling((1.0,), (0.0,))


@dataclass(frozen=True)
class Backbone:
    """A model of keras.applications whose features `transfer` trains on.

    Attributes:
        constructor: its name there.
        weights: where that constructor loads ImageNet weights without top from, below
            https://storage.googleapis.com/tensorflow/keras-applications/.
        first_tuned: the layer from which on fine-tuning changes weights.
        scaling: of the pixels that reach it.
        image_size: side in pixels of the pictures that it was trained on, the default of
            `--image_size`.
        digest: of the weights file, MD5 or SHA-256 in hexadecimal, as Keras' source has it; empty
            where that has none.
        weights_sizes: picture sizes that have weights of their own; the file's name holds one.
        arguments: of the constructor.
    """

    constructor: str
    weights: str
    first_tuned: str
    scaling: Scaling = OWN
    image_size: int = 224
    digest: str = ""
    weights_sizes: tuple[int, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)


# Fine-tuning changes the last blocks, those that see the picture in the fewest places.
_MOBILENET_V2 = Backbone(
    "MobileNetV2",
    "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{size}_no_top.h5",
    "block_14_expand",
    TF,
    image_size=160,
    weights_sizes=(96, 128, 160, 192, 224),
)
BACKBONES: dict[str, Backbone] = {
    "mobilenet_v2": _MOBILENET_V2,
    "mobilenet_v2_035": replace(
        _MOBILENET_V2,
        weights=_MOBILENET_V2.weights.replace("1.0", "0.35"),
        arguments={"alpha": 0.35},
    ),
    "mobilenet_v3_small": Backbone(
        "MobileNetV3Small",
        "mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
        "expanded_conv_9_expand",
        digest="d3e8ec802a04aa4fc771ee12a9a9b836",
    ),
    "mobilenet_v3_large": Backbone(
        "MobileNetV3Large",
        "mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        "expanded_conv_13_expand",
        digest="07fb09a5933dd0c8eaafa16978110389",
    ),
    "efficientnet_v2_b0": Backbone(
        "EfficientNetV2B0",
        "efficientnet_v2/efficientnetv2-b0_notop.h5",
        "block6g_expand_conv",
        digest="893217f2bb855e2983157299931e43ff",
    ),
    "efficientnet_v2_b3": Backbone(
        "EfficientNetV2B3",
        "efficientnet_v2/efficientnetv2-b3_notop.h5",
        "block6k_expand_conv",
        image_size=300,
        digest="f6abf7b5849ac99a89b50dd3fd532856",
    ),
    "resnet50_v2": Backbone(
        "ResNet50V2",
        "resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "conv5_block1_preact_bn",
        TF,
        digest="fac2f116257151a9d068a22e544a4917",
    ),
    "convnext_tiny": Backbone(
        "ConvNeXtTiny",
        "convnext/convnext_tiny_notop.h5",
        "convnext_tiny_stage_3_block_0_depthwise_conv",
        digest="d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
    ),
    "densenet121": Backbone(
        "DenseNet121",
        "densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "conv5_block1_0_bn",
        TORCH,
        digest="30ee3e1110167f948a6b9946edeeb738",
    ),
}


@dataclass(frozen=True)
class Head:
    """What follows a backbone: pooling, then dropout, a dense layer and dropout again, then the
    logits.

    Attributes:
        pooling: of features over the picture: ``max`` or ``average``; ``multiscale``: the average,
            and those of an earlier layer over quarters of the picture.
        units: of the dense layer; 0: none, and one dropout.
        dropout: share of numbers that is left out in training, both times.
    """

    pooling: str
    units: int
    dropout: float


# benchmarks/results/heads.json, three sets, by validation: an earlier layer that still knows where
# in the picture it is gains more than any layer after the features.
HEADS = {
    "multiscale": Head("multiscale", 0, 0.5),
    "wide": Head("average", 512, 0.5),
    "notebook": Head("max", 128, 0.2),
}

# The notebook's settings. What a recipe leaves out is as here.
_NOTEBOOK = {
    "epochs": 20,
    "learning_rate": "0.001",
    "early_stopping": 0,
    "feature_views": 0,
    "fine_tune_epochs": 0,
    "augmentation": "light",
    "head": "",
}
_BEST = {**_NOTEBOOK, "epochs": 60, "learning_rate": "cosine:0.001", "augmentation": "strong"}
_FAST = {
    **_NOTEBOOK,
    "epochs": 40,
    "early_stopping": 10,
    "learning_rate": "cosine:0.001",
    "feature_views": 1,
    "augmentation": "",
    "head": "multiscale",
}


@dataclass(frozen=True)
class Variant:
    """What one variant is, and what follows from it.

    Attributes:
        scaled: pixels are scaled to [-1, 1] inside the model.
        augmented: pictures are changed at random while it trains.
        backbone: a frozen backbone with ImageNet weights comes first.
        bfloat16: what has units for bfloat16 that make it faster without harm: ``gpu``, ``cpu``
            (with AMX).
        recipes: settings that each recipe decides, the default recipe first; one that is missing is
            not for this variant.
    """

    scaled: bool
    augmented: bool
    backbone: bool = False
    bfloat16: frozenset[str] = frozenset()
    recipes: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"notebook": _NOTEBOOK}
    )


# bfloat16: raw pixels make the first losses of `plain` about 20. One of 40 seeds lost all its units
# to them in bfloat16, none in float32, on the real cats and dogs. MobileNetV2's depthwise
# convolutions gain nothing from AMX: measured, 0.7 times the speed of float32.
#
# Fixed views are learned by heart sooner than fresh ones: a rate that falls to 0 keeps the last
# epochs from swinging.
VARIANTS: dict[str, Variant] = {
    "plain": Variant(
        scaled=False, augmented=False, recipes={"notebook": {**_NOTEBOOK, "augmentation": ""}}
    ),
    "augmented": Variant(scaled=False, augmented=True, bfloat16=frozenset({"gpu", "cpu"})),
    "preprocessed": Variant(
        scaled=True,
        augmented=True,
        bfloat16=frozenset({"gpu", "cpu"}),
        recipes={"notebook": _NOTEBOOK, "best": _BEST},
    ),
    "transfer": Variant(
        scaled=True,
        augmented=True,
        backbone=True,
        bfloat16=frozenset({"gpu"}),
        recipes={
            "fast": _FAST,
            # Fine-tuning of the last blocks gained nothing over these features on three sets:
            # benchmarks/results/accuracy.json.
            "best": {**_FAST, "image_size": 224},
            "notebook": {**_NOTEBOOK, "head": "notebook"},
        },
    ),
}

RECIPES = tuple(dict.fromkeys(name for variant in VARIANTS.values() for name in variant.recipes))


def scaling(variant: str, backbone: str) -> Scaling:
    """How a variant that scales does it: as its backbone was trained, else to [-1, 1]."""
    return BACKBONES[backbone].scaling if VARIANTS[variant].backbone else TF

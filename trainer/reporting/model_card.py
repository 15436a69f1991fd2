"""The model card: what the model is for, what it can do, and what nobody should expect of it."""

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.evaluation.summary import duration, names, percent, value
from trainer.reporting import style
from trainer.variants import VARIANTS

# Section -> (name, text) of each of its lines.
Card = list[tuple[str, list[tuple[str, str]]]]


def model_card(result: Mapping[str, Any], environment: Mapping[str, str]) -> Card:
    """Words a run's numbers as a model card.

    Args:
        result: what `result.json` holds.
        environment: what `environment.json` holds.

    Returns:
        Its sections with their lines.
    """
    config, data, test, seconds = (
        result["config"],
        result["data"],
        result["test"],
        result["seconds"],
    )
    calibration, exported, classes = (
        result["calibration"],
        result["export"],
        names(result["classes"]),
    )
    low, high = map(percent, test["interval_95"])
    top = test["top_5_accuracy"]
    areas = {
        "ROC": result["curves"]["roc"],
        "precision-recall": result["curves"]["precision_recall"],
    }
    return [
        (
            "Model",
            [
                ("variant", _variant(result["variant"], config["backbone"], result["recipe"])),
                ("classes", classes),
                (
                    "parameters",
                    "{total:,}, of which {trainable:,} trained".format(**result["parameters"]),
                ),
                ("size", f"{exported['size_bytes'] / 1e6:,.1f} MB as a SavedModel"),
                (
                    "latency",
                    (
                        f"{exported['latency_ms']:.0f} ms per picture: median of"
                        f" {exported['calls']}"
                        " calls with one picture each, decoding included, in the process that"
                        " trained it, without a server"
                    ),
                ),
            ],
        ),
        (
            "Intended use",
            [
                (
                    "for",
                    (
                        f"naming what a picture shows, if that is one of {classes}, in pictures"
                        " like those below"
                    ),
                ),
                ("not for", "pictures of anything else: it always answers one of its classes"),
            ],
        ),
        (
            "Data",
            [
                ("source", data["name"]),
                ("ledger digest", data["digest"]),
                *(
                    (split, f"{sum(counts.values()):,} pictures")
                    for split, counts in data["counts"].items()
                ),
                ("left out", f"{len(data['left_out']):,} files"),
            ],
        ),
        (
            "Results on the test pictures",
            [
                (
                    "accuracy",
                    f"{percent(test['accuracy'])} of {test['n']:,} (95 % interval {low} to {high})",
                ),
                (
                    "every class counted equally",
                    f"balanced accuracy {percent(test['balanced_accuracy'])}, macro F1"
                    f" {percent(test['macro_f1'])}"
                    + (f", {percent(top)} among the first 5" if top is not None else ""),
                ),
                (
                    "baseline",
                    f"{percent(result['baseline_accuracy'])}: always answering the commonest class",
                ),
                *(
                    (f"area, {name}", f"{curve['area']:.4f}")
                    for name, curve in areas.items()
                    if curve
                ),
                (
                    "temperature",
                    (
                        f"{calibration['temperature']:.3f}, from {calibration['fitted_on']:,}"
                        " validation pictures"
                    ),
                ),
                ("not sure", _unsure(result["unsure"])),
                (
                    "calibration error",
                    (
                        f"{percent(calibration['after']['error'])};"
                        f" {percent(calibration['before']['error'])} without the temperature"
                    ),
                ),
            ],
        ),
        *_publication(result),
        ("Limits", _limits(result)),
        (
            "Licence",
            [
                ("code", "Apache-2.0"),
                (
                    "model",
                    (
                        "for its owner to choose: it depends on the rights to the pictures and to"
                        " the base weights"
                    ),
                ),
            ],
        ),
        (
            "How it was trained",
            [
                (
                    "seconds",
                    f"{duration(seconds['total'])}, of which training {duration(seconds['train'])}",
                )
            ],
        ),
        ("Settings", [(name, value(setting)) for name, setting in config.items()]),
        ("Environment", [(name, value(setting)) for name, setting in environment.items()]),
    ]


def _unsure(found: Mapping[str, Any]) -> str:
    if not found["lowest_probability"]:
        return "never: too few validation pictures to choose a threshold"
    below = f"below a probability of {found['lowest_probability']:.3f}"
    if found["lowest_familiarity"]:
        below += (
            ", or where less than"
            f" {percent(found['lowest_familiarity'])} of a picture's features is familiar"
        )
    return f"{below}: at most {found['target']:.0%} of pictures like the validation pictures"


def _variant(variant: str, backbone: str, recipe: str) -> str:
    on = f" on {backbone}" if VARIANTS[variant].backbone else ""
    return f"{variant}{on}, recipe {recipe}"


def example(result: Mapping[str, Any]) -> str:
    """Python lines that ask the model about a picture; an unpublished one is found in its run
    folder.
    """
    return (
        "import tensorflow as tf\n\n"
        f"model = tf.saved_model.load({result['model_path'] or 'export'!r})\n"
        'with open("picture.jpg", "rb") as picture:\n'
        '    answer = model.signatures["serving_default"]'
        "(image_bytes=tf.constant([picture.read()]))\n"
        'print(answer["label"].numpy()[0].decode(), float(answer["probability"][0]))'
    )


def write_model_card(result: Mapping[str, Any], environment: Mapping[str, str], path: Path) -> None:
    """Writes the card as Markdown.

    Raises:
        RunError: the file cannot be written; nothing is left behind.
    """
    lines = [f"# Model card: {_escape(result['variant'])} on {_escape(result['data']['name'])}"]
    for title, rows in model_card(result, environment):
        lines += [
            "",
            f"## {title}",
            "",
            *(f"- **{_escape(name)}**: {_escape(text)}" for name, text in rows),
        ]
    lines += ["", "## How to ask it", "", "```python", example(result), "```", ""]
    style.write(path, "\n".join(lines).encode("utf-8", "backslashreplace"))


def _publication(result: Mapping[str, Any]) -> Card:
    """What held before it was published, or kept it from being."""
    found, gate = result["verification"], result["gate"]
    if found is None:
        return []
    latency, over_rest = found["latency_ms"], found["over_rest"]
    return [
        (
            "Publication",
            [
                ("gate", gate["sentence"]),
                (
                    "served as trained",
                    (
                        f"{found['n']:,} test pictures as bytes over gRPC: probabilities differ by"
                        f" at most {found['largest_difference']:.1g} from the trained model's"
                        f" ({found['bound']:g} is allowed), and {found['flips']:,} labels;"
                        f" {over_rest['n']:,} over REST: at most"
                        f" {over_rest['largest_difference']:.1g}, and {over_rest['flips']:,} labels"
                    ),
                ),
                (
                    "served latency",
                    (
                        f"median {latency['p50']:.1f} ms, 99 of 100 below {latency['p99']:.1f} ms,"
                        f" of {latency['calls']:,} requests of one picture to a server on the"
                        " machine that trained it"
                    ),
                ),
                (
                    "loading",
                    (
                        f"{found['load_seconds']:.1f} s in a server, with"
                        f" {found['warmup_records']:,} warm-up records answered"
                    ),
                ),
            ],
        )
    ]


def _limits(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    limits = [
        (each["about"], each["text"]) for each in result["reading"] if each["verdict"] != "good"
    ]
    weights = result["config"]["base_weights"]
    backbone = VARIANTS[result["variant"]].backbone
    if backbone and weights == "imagenet":
        seen = (
            "its weights come from ImageNet: it has learnt the animals and objects that ImageNet"
            " shows; other classes may get worse results"
        )
        limits.append(("backbone", seen))
    elif backbone and weights != "none":
        limits.append(
            (
                "backbone",
                f"it may have seen pictures like these before: its weights come from {weights}",
            )
        )
    limits.append(
        ("other pictures", "no number here says how good it is on pictures from another source")
    )
    return limits


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]#|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))

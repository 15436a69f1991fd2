"""Do answers say when they are not sure, and do heatmaps show what they rest on?

  python -m benchmarks.answers --data=cats_and_dogs_filtered,clothing,sign_language_digits \\
    --weights=mobilenet_v2_..._160_no_top.h5

A model is trained on each set, as `--recipe=fast` does. Strangers are test pictures of the other
sets, which no threshold was chosen on.
"""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.measurement import define_output, record
from trainer.config import Config
from whisker_ml import cli

# Pictures of a set at most: as strangers; that parts of are covered.
STRANGERS, COVERED = 400, 150
_DRAWS = 2000


def main() -> None:
    """Entry point."""
    cli.define("data", [], "folders of pictures, two or more")
    cli.define("weights", None, "file of MobileNetV2 weights, or none", required=True)
    cli.define("work_dir", "runs/answers", "keeps features")
    define_output("answers")
    cli.run(_measure)


@dataclass(frozen=True)
class _Set:
    name: str
    data: Any
    trained: Any
    judged: Any


def _measure(_: Sequence[str]) -> None:
    cli.import_tensorflow()
    with tempfile.TemporaryDirectory() as folder:
        sets = [_train(Path(data).resolve(), folder) for data in flags.FLAGS.data]
        record(
            "strangers: how well a score tells own test pictures from those of the other sets, as"
            " area under the ROC curve with its 95 % interval over pictures (bootstrap), and the"
            " shares that the product is not sure of; heatmaps: share of the right answers of which"
            " blurring the fifth of the picture that is marked takes more certainty than a random"
            " fifth",
            [],
            ["strangers", "heatmaps"],
            strangers={one.name: _strangers(one, sets) for one in sets},
            heatmaps={one.name: _heatmaps(one) for one in sets},
        )


def _train(folder: Path, runs: str) -> _Set:
    from trainer import training
    from trainer.data import dataset, sources
    from trainer.evaluation.judge import judge
    from trainer.session import open_session

    options = flags.FLAGS
    config = Config(
        data=str(folder),
        variant="transfer",
        split="hold_out" if (folder / "validation").is_dir() else "given",
        base_weights=options.weights,
        cache_dir=options.work_dir,
        run_dir=f"{runs}/{folder.name}",
    )
    with open_session(config) as session:
        weights = sources.backbone_weights(config, session.downloads)
        data = dataset.load(config, session)
        trained = training.train(config, session, data, weights)
        return _Set(folder.name, data, trained, judge(config, session, data, trained))


def _strangers(own: _Set, sets: Sequence[_Set]) -> dict[str, Any]:
    from trainer.training.features import fastest_backend, split_backbone

    extractor, head = split_backbone(own.trained.model)
    _, run = fastest_backend(extractor, own.data.examples)

    def read(one: _Set) -> np.ndarray:
        indices = one.data.examples.indices("test")
        chosen = np.random.default_rng(0).permutation(indices)[:STRANGERS]
        return in_blocks(run, one.data.examples.pictures(np.sort(chosen)))

    others = np.concatenate([read(one) for one in sets if one is not own])
    known = scores(own, features_of(own, "test"), head)
    strange = scores(own, others, head)
    doubt = own.judged.doubt
    found = {
        name: doubt.unsure(given["maximum probability"], given["familiarity"]).mean()
        for name, given in (("unsure_own", known), ("unsure_strangers", strange))
    }
    return {
        "own": len(known["familiarity"]),
        "strangers": len(others),
        **{name: round(float(share), 4) for name, share in found.items()},
        "areas": {name: area(known[name], strange[name]) for name in known},
    }


def features_of(own: _Set, split: str) -> np.ndarray:
    """Those of a split's pictures as the model was trained on them: float32 [n, F]."""
    return own.trained.predict(own.data.examples.indices(split))[1]


def in_blocks(run: Any, pixels: np.ndarray) -> np.ndarray:
    """Features of pictures, float32 [n, F], of pixels, uint8 [n, size, size, 3]."""
    from trainer.training.features import BATCH

    starts = range(0, len(pixels), BATCH)
    return np.concatenate([run(pixels[start : start + BATCH]) for start in starts])


def scores(own: _Set, features: np.ndarray, head: Any) -> dict[str, np.ndarray]:
    """Scores that are higher for pictures like those that a model was trained on: float [n] each.

    Args:
        own: the model, and what it was trained on.
        features: of the pictures, float32 [n, F].
        head: from features to logits.
    """
    import tensorflow as tf

    logits = head(features, training=False)
    learnt = features_of(own, "train")
    labels = own.data.examples.labels(own.data.examples.indices("train"))
    means = np.stack([learnt[labels == label].mean(axis=0) for label in np.unique(labels)])
    away = np.linalg.norm(features[:, np.newaxis] - means, axis=2)
    both = tf.pad(logits, [[0, 0], [1, 0]]) if own.judged.objective.units == 1 else logits
    return {
        "maximum probability": own.judged.objective.probabilities(logits).numpy().max(axis=1),
        "energy": tf.reduce_logsumexp(both, axis=1).numpy(),
        "distance to the nearest class mean": -away.min(axis=1),
        "familiarity": own.judged.doubt.familiarity.of(features).numpy(),
    }


def area(known: np.ndarray, strange: np.ndarray) -> dict[str, Any]:
    """Area under the ROC curve: the chance that a known picture has the higher score.

    Returns:
        `area` and its `interval_95`.
    """
    generator = np.random.default_rng(0)
    above = (known[:, np.newaxis] > strange) + 0.5 * (known[:, np.newaxis] == strange)
    draws = [_mean_of(above, generator.multinomial) for _ in range(_DRAWS)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        "area": round(float(above.mean()), 4),
        "interval_95": [round(float(low), 4), round(float(high), 4)],
    }


def _mean_of(above: np.ndarray, draw: Callable[..., np.ndarray]) -> float:
    rows, columns = (draw(n, np.full(n, 1 / n)) / n for n in above.shape)
    return float(rows @ above @ columns)


def _heatmaps(own: _Set) -> dict[str, Any]:
    """How often the marked fifth of a picture takes more certainty than a random one."""
    from trainer.evaluation.judge import PARTS, covered, importance, log_odds

    examples, objective, classify = own.data.examples, own.trained.objective, own.trained.classify
    generator = np.random.default_rng(0)
    takes: list[bool] = []
    for index in generator.permutation(examples.indices("test"))[:COVERED]:
        pixels = examples.pictures(np.array([index]))[0].astype(np.float32)
        answer = int(objective.predictions(classify(pixels[np.newaxis]))[0])
        if answer == examples.labels(np.array([index]))[0]:
            maps = [importance(classify, objective, pixels), generator.random((PARTS, PARTS))]
            parts = np.stack([found >= np.sort(found, axis=None)[-PARTS] for found in maps])
            certainty = log_odds(objective, classify(covered(pixels, parts)), answer)
            takes.append(bool(certainty[0] < certainty[1]))
    return {"n": len(takes), "occlusion": round(statistics.mean(takes), 3)}


if __name__ == "__main__":
    main()

"""From an exported model to a published one: verified on a server, compared with what is live, and
then made live.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from serving.store import ModelStore, PublishedVersion
from serving.store.manifest import LEDGER_FILE
from trainer.config import Config
from trainer.data.ledger import Ledger
from trainer.errors import ConfigError
from trainer.evaluation import gate
from trainer.export import provenance, warmup
from trainer.export.verify import Expected, Served, ask, latencies, serve, verify
from trainer.variants.head import Head

# The smallest of so many are what warms a model up.
_WARMUP_CANDIDATES = 64


@dataclass(frozen=True)
class Publication:
    """What became of an exported model.

    Attributes:
        verification: as `trainer.export.verify.verify` gives it, and `warmup_records`; None where
            nothing was to be published.
        gate: as `trainer.evaluation.gate.decide` gives it; likewise.
        version: in the store; None where nothing was published.
    """

    verification: dict[str, Any] | None = None
    gate: dict[str, Any] | None = None
    version: PublishedVersion | None = None


def require_same_classes(store: ModelStore, classes: Sequence[str]) -> None:
    """Makes sure, before anything is trained, that clients of the live version will understand the
    next one.

    Raises:
        ConfigError: the live version has other classes.
        StorageError: the store cannot be read.
    """
    live = store.live_version()
    served = store.manifest(live).get("classes") if live is not None else None
    if served is not None and list(served) != list(classes):
        raise ConfigError(
            f"--model_name={store.model_name}: its live version {live} has the classes"
            f" {', '.join(served)}, these pictures {', '.join(classes)}; give another --model_name"
        )


def publish(
    folder: Path,
    store: ModelStore | None,
    ledger: Ledger,
    *,
    config: Config,
    origin: Mapping[str, Any],
    judged: Mapping[str, Any],
    head: Head,
    logits: Callable[[], np.ndarray],
    read: Callable[[str], bytes],
    device: str,
    say: Callable[[str], None],
) -> Publication:
    """Completes an exported model and publishes it, if it holds what was trained and the gate lets
    it through.

    Args:
        folder: the SavedModel; gets its warm-up records, the rows of the ledger and whisker.json.
        store: where to; None: nothing is verified or published.
        ledger: of the run.
        config: of the run.
        origin: what `whisker.json` says of where the model comes from.
        judged: what `trainer.evaluation.judgement.judge` says of it.
        head: with the temperature.
        logits: computes the trained model's logits of the test pictures, float32 [n, units], in the
            ledger's order.
        read: gives the encoded picture at a path of the ledger.
        device: kind of device that computes them: CPU or GPU.
        say: prints one line.

    Returns:
        What became of it. A model that the gate refused is not in the store at all: a server on the
        bare base path would load it.

    Raises:
        VerificationError: a server does not answer what was trained; nothing is published.
        StorageError: the store cannot be read or written; nothing is published.
    """
    by_split = {
        name: [each for each in ledger.pictures if each.split == name] for name in ("train", "test")
    }
    # By hash, and so a sample of all classes that is the same at every run.
    training = islice(
        sorted(by_split["train"], key=lambda picture: picture.sha256), _WARMUP_CANDIDATES
    )
    records = warmup.write(folder, config.model_name, [read(picture.path) for picture in training])
    provenance.write_ledger(ledger, folder)
    if store is None:
        provenance.write_manifest(folder, {**origin, "verification": None, "gate": None})
        return Publication()
    computed = tf.constant(logits())
    expected = Expected(
        ledger.classes,
        by_split["test"],
        read,
        [ledger.classes[number] for number in head.predictions(computed).numpy()],
        head.probabilities(computed).numpy(),
    )
    with serve(str(folder), "the exported model") as candidate:
        verification, decision = _examine(candidate, store, expected, config, judged, device, say)
    verification["warmup_records"] = records
    provenance.write_manifest(folder, {**origin, "verification": verification, "gate": decision})
    version = None
    if decision["passed"]:
        version = store.publish(folder)
        store.promote(version.number)
    return Publication(verification, decision, version)


def _examine(
    candidate: Served,
    store: ModelStore,
    expected: Expected,
    config: Config,
    judged: Mapping[str, Any],
    device: str,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], dict[str, Any]]:
    answers, found = verify(candidate, expected, device)
    say(
        f"served as trained: {found['n']:,} test pictures over gRPC, {found['over_rest']['n']} over"
        f" REST, probabilities within {found['largest_difference']:.1g}; median"
        f" {found['latency_ms']['p50']:.1f} ms; loaded in {found['load_seconds']:.1f} s"
    )
    cost, live = gate.Cost(found["latency_ms"]["p50"], candidate.size_bytes), None
    number = store.live_version()
    if config.gate != "off" and number is not None:
        live = gate.Live(number, _trained_on(store, number, expected))
        if live.trained_on == 0:
            path, cure = (
                f"{store.base_path}/{number}",
                ": make one live that can be, or give --gate=off",
            )
            with serve(path, "the live version", cure) as served:
                said = [answer.label for answer in ask(served, expected)]
                took_ms = [
                    float(np.median(each)) for each in latencies([served, candidate], expected)
                ]
                live = gate.Live(number, 0, said, gate.Cost(took_ms[0], served.size_bytes))
                cost = gate.Cost(took_ms[1], candidate.size_bytes)
    labels = [picture.label for picture in expected.pictures]
    predicted = [answer.label for answer in answers]
    decision = gate.decide(
        config.gate, config.gate_margin / 100, labels, predicted, judged, cost, live
    )
    if decision["passed"]:
        # A refusal ends the run with its sentence.
        say(decision["sentence"])
    return found, decision


def _trained_on(store: ModelStore, version: int, expected: Expected) -> int | None:
    """How many of the test pictures a version was trained on or chosen by; None where it does not
    say.
    """
    splits = provenance.read_ledger(store.read_file(version, LEDGER_FILE))
    if splits is None:
        return None
    return sum(
        splits.get(picture.sha256) in ("train", "validation") for picture in expected.pictures
    )

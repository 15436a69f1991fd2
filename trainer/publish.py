"""From an exported model to a published one: verified on a server, compared with what is live, and
then made live.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.store import ModelStore, PublishedVersion, open_store
from serving.store.manifest import LEDGER_FILE
from serving.store.state import VersionMissingError
from serving.store.store import OvertakenError
from trainer.config import OF_BEFORE, Config
from trainer.data.dataset import Dataset
from trainer.errors import ConfigError
from trainer.evaluation import gate
from trainer.export import Exported, provenance
from trainer.export.verify import Expected, Served, ask, latencies, serve, verify
from trainer.session import Session

logger = logging.getLogger(__name__)

# Comparisons with what is live, where others publish at the same time.
_COMPARISONS = 3


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

    @property
    def refused(self) -> bool:
        """Tells whether the gate refused the model."""
        return self.gate is not None and self.version is None


def require_same_classes(store: ModelStore | None, classes: Sequence[str]) -> None:
    """Makes sure, before anything is trained, that clients of the live version will understand the
    next one.

    Raises:
        ConfigError: the live version has other classes.
        StorageError: the store cannot be read.
    """
    if store is None:
        return
    live = store.live_version()
    served = store.manifest(live).get("classes") if live is not None else None
    if served is not None and list(served) != list(classes):
        raise ConfigError(
            f"--model_name={store.model_name}: its live version {live} has the classes"
            f" {', '.join(served)}, and these pictures have {', '.join(classes)}; give another"
            " --model_name, or another --model_dir"
        )


def check_store(config: Config) -> ModelStore | None:
    """Opens the store to publish to, and makes sure that it can be written; None: do not publish.

    Raises:
        StorageError: it cannot be written.
    """
    if not config.model_dir:
        return None
    store = open_store(config.model_dir, config.model_name)
    store.check()
    return store


def publish(
    config: Config,
    session: Session,
    data: Dataset,
    exported: Exported,
    result: Mapping[str, Any],
    store: ModelStore | None,
) -> Publication:
    """Completes an exported model and publishes it, if it answers what was trained and the gate
    lets it through.

    Args:
        config: of the run.
        session: of the run.
        data: the pictures.
        exported: the model; its folder gets whisker.json.
        result: what `result.json` holds so far.
        store: where to; None: nothing is verified or published.

    Returns:
        What became of it. A model that the gate refused is not in the store at all: a server on the
        bare base path would load it.

    Raises:
        ConfigError: what is live by now has other classes; nothing is published.
        VerificationError: a server does not answer what was trained; nothing is published.
        StorageError: the store cannot be read or written; nothing is published.
    """
    folder, ledger, candidate = exported.folder, data.ledger, exported.candidate
    origin = provenance.describe(
        result,
        config,
        commit=session.folder.environment["commit"],
        checkpoint=exported.checkpoint,
    )

    def tell(verification: dict[str, Any] | None, decision: dict[str, Any] | None) -> None:
        told = {**origin, "verification": verification, "gate": decision}
        provenance.write_manifest(folder, told)

    if store is None or candidate is None:
        tell(None, None)
        session.clock.stop("publish")
        return Publication()
    # By this very run, before it was killed.
    if before := store.published_by(session.folder.id):
        manifest = store.manifest(before.number)
        verification, decision = manifest["verification"], manifest["gate"]
        if store.state().has_been_live(before.number) or _make_live(
            store, before, decision, decision["live_version"]
        ):
            # The version stays as it is; what was staged for it and never moved there goes.
            store.publish(folder, publisher=session.folder.id)
            tell(verification, decision)
            session.clock.stop("publish")
            return Publication(verification, decision, before)
    logits, features = exported.predict_test()
    objective, doubt = exported.objective, exported.doubt
    familiarity = doubt.familiarity and doubt.familiarity.of(features).numpy()
    probabilities = objective.probabilities(logits).numpy()
    expected = Expected(
        ledger.classes,
        [picture for picture in ledger.pictures if picture.split == "test"],
        data.pictures.read,
        [ledger.classes[number] for number in objective.predictions(logits).numpy()],
        probabilities,
        lambda slack: doubt.unsure(probabilities.max(axis=1), familiarity, slack=slack),
    )
    with candidate.ready() as served:
        answers, verification = verify(served, expected, session.devices.kind)
        logger.info(
            f"served as trained: {verification['n']:,} test pictures over gRPC,"
            f" {verification['over_rest']['n']} over REST, probabilities within"
            f" {verification['largest_difference']:.1g}; median"
            f" {verification['latency_ms']['p50']:.1f} ms; loaded in"
            f" {verification['load_seconds']:.1f} s"
        )
        verification["warmup_records"] = exported.warmup_records
        cost = gate.Cost(verification["latency_ms"]["p50"], served.size_bytes)
        predicted = [answer.label for answer in answers]

        def compare(number: int | None) -> dict[str, Any]:
            require_same_classes(store, ledger.classes)
            live, beside = None, cost
            if config.gate != "off" and number is not None:
                live, beside = _ask_live(store, number, served, cost, expected, config)
            labels = [picture.label for picture in expected.pictures]
            margin = config.gate_margin / 100
            decision = gate.decide(config.gate, margin, labels, predicted, result, beside, live)
            tell(verification, decision)
            return decision

        decision, version = _replace_live(store, folder, compare, session.folder.id)
    session.clock.stop("publish")
    return Publication(verification, decision, version)


def _replace_live(
    store: ModelStore,
    folder: Path,
    compare: Callable[[int | None], dict[str, Any]],
    publisher: str = "",
) -> tuple[dict[str, Any], PublishedVersion | None]:
    """Publishes what the gate lets through, and makes it live if what it was compared with still
    is; else it is compared with what is live now.
    """
    for _ in range(_COMPARISONS):
        live = store.live_version()
        decision = compare(live)
        if not decision["passed"]:
            # A refusal ends the run with its sentence.
            return decision, None
        logger.info(decision["sentence"])
        version = store.publish(folder, publisher=publisher)
        if _make_live(store, version, decision, live):
            return decision, version
    sentence = (
        f"The gate refused it: another version went live during each of {_COMPARISONS} comparisons;"
        " give the same command again."
    )
    return decision | {"passed": False, "sentence": sentence}, None


def _make_live(
    store: ModelStore, version: PublishedVersion, decision: Mapping[str, Any], live: int | None
) -> bool:
    """Makes a version live if what it was compared with still is; else it is withdrawn."""
    try:
        store.promote(version.number, over=... if decision["policy"] == "off" else live)
    except (OvertakenError, VersionMissingError) as error:
        # Its whisker.json tells of another comparison than the next.
        store.withdraw(version.number)
        logger.info(f"{error}; comparing again, with the version that is live now")
        return False
    return True


def _ask_live(
    store: ModelStore,
    number: int,
    candidate: Served,
    cost: gate.Cost,
    expected: Expected,
    config: Config,
) -> tuple[gate.Live, gate.Cost]:
    """Asks the live version what the candidate was asked, if that is fair; the candidate's cost is
    measured beside it.
    """
    splits = provenance.read_ledger(store.read_file(number, LEDGER_FILE))
    seen = None
    if splits is not None:
        seen = sum(
            splits.get(picture.sha256) in ("train", "validation") for picture in expected.pictures
        )
    if seen != 0:
        return gate.Live(number, seen), cost
    path, fix = f"{store.base_path}/{number}", ": make another version live, or give --gate=off"
    with serve(path, "the live version", fix) as served:
        labels = [answer.label for answer in ask(served, expected)]
        took_ms = [float(np.median(times)) for times in latencies([served, candidate], expected)]
        made = OF_BEFORE | store.manifest(number).get("config", {})
        same = all(made.get(name) == getattr(config, name) for name in ("variant", "backbone"))
        live = gate.Live(number, 0, labels, gate.Cost(took_ms[0], served.size_bytes), same)
    return live, gate.Cost(took_ms[1], candidate.size_bytes)

"""`result.json`: the one place that knows what a run records of itself."""

from dataclasses import asdict
from html import escape
from typing import Any

from trainer.config import Config
from trainer.data.dataset import Dataset
from trainer.evaluation.judge import Judged
from trainer.evaluation.summary import read_run
from trainer.export import Exported
from trainer.publish import Publication
from trainer.session import Session
from trainer.training import Trained


class Result(dict[str, Any]):
    """What `result.json` holds, and `run_dir`; a notebook shows it in words.

    Empty in a worker that is not the chief.
    """

    def lines(self) -> list[str]:
        """Says how good the model is, and where it and its report are."""
        test = self["test"]
        low, high = test["interval_95"]
        accuracy = (
            f"test accuracy {test['accuracy']:.3f} (95 % interval {low:.3f} to {high:.3f},"
            f" n={test['n']}); always answering the commonest class gets"
            f" {self['baseline_accuracy']:.3f}"
        )
        published = f"published version {self['model_version']}: {self['model_path']}"
        return [
            accuracy,
            *([] if self["model_version"] is None else [published]),
            f"report {self['run_dir'].rstrip('/')}/report.html",
        ]

    def _repr_html_(self) -> str | None:
        """What a notebook shows: these lines, and the sentences of the report."""
        if not self:
            return None
        said = (f"{each['about']} ({each['verdict']}): {each['text']}" for each in self["reading"])
        return "".join(f"<p>{escape(line)}</p>" for line in (*self.lines(), *said))


def compose(
    config: Config,
    session: Session,
    data: Dataset,
    trained: Trained,
    judged: Judged,
    exported: Exported,
) -> dict[str, Any]:
    """Composes what `result.json` holds, but for what becomes of the model.

    Args:
        config: of the run.
        session: of the run.
        data: the pictures.
        trained: the model and its history.
        judged: how good it is.
        exported: what it costs to serve.
    """
    history, ledger = trained.history, data.ledger
    pictures = len(data.examples.indices("train"))
    seconds = sum(history.seconds) + session.clock.seconds().get("features", 0.0)
    result = {
        "variant": config.variant,
        "recipe": config.recipe,
        "precision": session.devices.precision,
        "classes": list(ledger.classes),
        "parameters": trained.parameters,
        "epochs": len(history.loss),
        "chosen_epoch": trained.chosen_epoch,
        "history": asdict(history),
        "baseline_accuracy": ledger.baseline_accuracy(),
        **judged.numbers,
        "export": exported.cost,
        "images_per_second": pictures * len(history.loss) / seconds,
        "throughput": [pictures / of_epoch for of_epoch in history.seconds],
        "data": {
            "name": config.data,
            "digest": data.digest,
            "counts": ledger.counts(),
            "left_out": [vars(file) for file in ledger.left_out],
            "unused": [vars(unused) for unused in data.pictures.unused],
            "class_weights": data.examples.class_weights(),
            "looks_at_test": judged.test_set_evaluations,
        },
        "layers": trained.layers,
        "config": asdict(config),
    }
    return result | {"reading": read_run(result)}


def add_publication(
    result: dict[str, Any], publication: Publication, session: Session
) -> dict[str, Any]:
    """Adds what became of the model and how long the run took, and writes `result.json`.

    Args:
        result: as `compose` gives it.
        publication: what became of the model.
        session: of the run.

    Returns:
        The whole of `result.json`.
    """
    version = publication.version
    result = result | {
        "verification": publication.verification,
        "gate": publication.gate,
        "model_version": version.number if version else None,
        "model_path": version.path if version else None,
        "seconds": session.clock.seconds(),
    }
    session.folder.write_json("result.json", result)
    if publication.gate is not None:
        session.folder.write_json("gate.json", publication.gate)
    return result

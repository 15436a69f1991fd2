"""One run from pictures to a published model, top to bottom; the notebook user's API.

from trainer.config import Config
from trainer.pipeline import run

result = run(Config(data="my_pictures", variant="transfer"))
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from serving.store import open_store
from trainer.announcements import say_data, say_devices, say_nothing, say_on_screen
from trainer.clock import Clock
from trainer.cluster import ALONE, Cluster, meet
from trainer.config import Config
from trainer.data import frozen as data_frozen
from trainer.data import input as data_input
from trainer.data import scan as data_scan
from trainer.data import sources
from trainer.data.cache import free_memory_bytes, make_cache
from trainer.data.pictures import assign, open_pictures
from trainer.errors import GateRefused
from trainer.evaluation.judgement import judge
from trainer.evaluation.reading import read_run
from trainer.export import cost, provenance, saved_model
from trainer.illustrations import illustrate_data, illustrate_result
from trainer.publish import publish, require_same_classes
from trainer.reporting.model_card import write_model_card
from trainer.reporting.report import write_report
from trainer.run_folder import RunFolder, open_run, scratch_run
from trainer.stop import Stop
from trainer.training.devices import Devices, prepare
from trainer.training.extractor import split
from trainer.training.fit import Batches
from trainer.training.loop import inference
from trainer.training.observers import Observers, show_pictures
from trainer.training.sanity import check_start
from trainer.training.stages import Stages
from trainer.variants.head import Head
from trainer.variants.models import build, copy_variables, describe_layers, trainable_parameters

DOWNLOADS = Path.home() / ".cache" / "whisker"

_TIMED = 20


def run(
    config: Config,
    *,
    cluster: Cluster = ALONE,
    downloads: Path = DOWNLOADS,
    say: Callable[[str], None] = say_on_screen,
    stop: Stop | None = None,
    tensorboard: str = "",
    now: Callable[[], datetime] = datetime.now,
) -> dict[str, Any]:
    """Trains, evaluates, reports, exports and (with `model_dir`) publishes.

    Args:
        config: what to do.
        cluster: the processes that share the training, each of which calls this with the same
            config.
        downloads: folder that keeps drawn and downloaded pictures and weights from run to run.
        say: prints one line of progress.
        stop: knows whether the run is to stop; None: nobody asks.
        tensorboard: ``gs://…`` that gets a copy of the run folder's event files; empty: none.
        now: tells the time, which names the run folder.

    Returns:
        What `result.json` holds; `run_dir` in addition. Empty in a worker that is not the chief.

    Raises:
        WhiskerError: something that the user can mend; the run folder says so too.
    """
    stop = stop or Stop()
    if cluster.count > 1:
        say(
            f"worker {cluster.index} of {cluster.count} ({cluster.workers[cluster.index]}): waiting"
            " for the others"
        )
        meet(cluster, asdict(config))
    devices = prepare(config, cluster)
    stop.install_again()
    say_devices(config, devices, say)
    if cluster.is_chief:
        opened = open_run(config, devices.names, now(), tensorboard=tensorboard)
    else:
        opened, say = scratch_run(devices.names), say_nothing
    with opened as folder, devices.workers.errors():
        say(f"{'going on in' if folder.resumed else 'run folder'} {folder.address}")
        with stop.told_plainly():
            result = _run(config, devices, folder, downloads, say, stop)
    return {**result, "run_dir": folder.address} if result else {}


def _run(
    config: Config,
    devices: Devices,
    folder: RunFolder,
    downloads: Path,
    say: Callable[[str], None],
    stop: Stop,
) -> dict[str, Any]:
    clock = Clock()
    workers = devices.workers
    # What can fail for want of permission or network fails before the training, not after it.
    store = open_store(config.model_dir, config.model_name) if config.model_dir else None
    if store is not None:
        store.check()
    weights = None
    if config.variant == "transfer":
        weights = sources.weights_file(config.base_weights, config.image_size, downloads)

    # 1. Pictures: found, read once, and assigned to splits before anything is trained.
    root = sources.pictures_folder(config.data, downloads)
    pictures = open_pictures(root)
    # Features are computed by everybody for all; of pixels in shards, each reads what it trains on.
    own = pictures if config.feature_views else data_input.own_pictures(pictures, workers.part)
    cache = make_cache(
        config.cache,
        len(own.found),
        config.image_size,
        downloads / "pixels",
        free_bytes=free_memory_bytes(),
    )
    scan = data_scan.scan(own, config.image_size, on_bad_image=config.on_bad_image, cache=cache)
    ledger = assign(pictures, scan.sha256, scan.left_out, protocol=config.split, say=say)
    workers.require_same("the pictures or their split", ledger.digest)
    workers.require_same("what they compute in (--mixed_precision)", devices.precision)
    folder.freeze_ledger(ledger)
    examples = data_input.Examples(
        own, ledger, scan.pixels, config.image_size, class_weights=config.class_weights
    )
    say_data(ledger, say)
    if store is not None:
        require_same_classes(store, ledger.classes)

    # 2. The model, under the strategy.
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    head = Head(len(ledger.classes))
    make = partial(
        build,
        config.variant,
        config.image_size,
        head,
        seed=config.seed,
        strong_augmentation=config.strong_augmentation,
    )
    with devices.strategy.scope():
        model = make(weights=weights, precision=devices.precision)
    if workers.is_chief:
        illustrate_data(examples, ledger, config, folder.file("pictures"))
        show_pictures(folder.file("pictures"), folder.path / "tensorboard", 0)
    clock.stop("data")

    # 3. Training.
    stages = Stages(
        config,
        devices,
        model,
        head,
        examples,
        checkpoints=folder.path / "checkpoints",
        saved=partial(folder.synchronise, say),
        observers=Observers(
            epochs=config.epochs + config.fine_tune_epochs,
            pictures=len(examples.indices("train")),
            metrics_file=folder.file("metrics.jsonl"),
            tensorboard=folder.path / "tensorboard",
            say=say,
            profile=config.profile_window,
        ),
        stop=stop.asked,
    )
    features: Batches | None = None
    batches: Batches
    if config.feature_views:
        features = stages.features(ledger, downloads / "features")
        clock.stop("features")
    if not folder.resumed:
        check_start(model, head, examples, config)
    with stop.deferred():
        history = stages.train(features)
        chosen = history.best_epoch() if config.early_stopping else len(history.loss)
        if config.fine_tune_epochs:
            history = stages.fine_tune(history, chosen)
            chosen = history.best_epoch(chosen)
        clock.stop("train")
    if not workers.is_chief:
        return {}

    # 4. The model that is published: float32, on one device. One look at the test set.
    single = model
    if devices.strategy_name != "no strategy" or devices.precision != "float32":
        single = make()
        copy_variables(model, single)
    batches, infer = examples, inference(single)
    served_as = partial(infer, examples.evaluation_batches("test", config.batch_size))
    if features is not None and not config.fine_tune_epochs:
        batches, infer = features, inference(split(single)[1], tf.float32)
    rows = []
    for name in ("validation", "test"):
        logits = infer(batches.evaluation_batches(name, config.batch_size))
        answers = head.predictions(tf.constant(logits)).numpy()
        for index, answer, row in zip(examples.indices(name), answers, logits, strict=True):
            picture = ledger.pictures[index]
            said = {"predicted": ledger.classes[answer], "logits": row.tolist()}
            rows.append({"sha256": picture.sha256, "split": name, "label": picture.label, **said})
    folder.write_predictions(rows)
    paths = {picture.sha256: picture.path for picture in ledger.pictures}
    judged = judge(head, ledger.classes, rows, paths, seed=config.seed)
    head = replace(head, temperature=judged["calibration"]["temperature"])
    looks = data_frozen.count_look(root, ledger, folder.address) if pictures.frozen else None
    if looks:
        say(f"look {looks} at the frozen test set")
    clock.stop("evaluate")

    # 5. The SavedModel.
    answer_bytes = saved_model.export(
        single, head, ledger.classes, config.image_size, folder.file("export")
    )
    single.save(folder.file("model.keras"))
    timed = [pictures.read(picture.path) for picture in ledger.pictures if picture.split == "test"][
        :_TIMED
    ]
    exported = cost.measure(folder.file("export"), answer_bytes, timed)
    result = {
        "variant": config.variant,
        "recipe": config.recipe,
        "precision": devices.precision,
        "classes": list(ledger.classes),
        "parameters": {"total": model.count_params(), "trainable": trainable_parameters(model)},
        "epochs": len(history.loss),
        "chosen_epoch": chosen,
        "history": asdict(history),
        "baseline_accuracy": ledger.baseline_accuracy(),
        **judged,
        "export": exported,
        "images_per_second": (
            len(examples.indices("train"))
            * len(history.loss)
            / (sum(history.seconds) + clock.seconds().get("features", 0.0))
        ),
        "throughput": [len(examples.indices("train")) / seconds for seconds in history.seconds],
        "data": {
            "name": config.data,
            "digest": ledger.digest,
            "counts": ledger.counts(),
            "left_out": [vars(file) for file in ledger.left_out],
            "class_weights": examples.class_weights(),
            "looks_at_test": looks,
        },
        "layers": describe_layers(model),
        "config": asdict(config),
    }
    result["reading"] = read_run(result)
    clock.stop("export")

    # 6. Its place in the store, where it holds up.
    publication = publish(
        folder.file("export"),
        store,
        ledger,
        config=config,
        origin=provenance.describe(
            result,
            image_size=config.image_size,
            commit=folder.environment["commit"],
            checkpoint=folder.file("model.keras"),
        ),
        judged=judged,
        head=head,
        logits=served_as,
        read=pictures.read,
        device="GPU" if any("GPU" in name for name in devices.names) else "CPU",
        say=say,
    )
    clock.stop("publish")

    # 7. The record and the report.
    version = publication.version
    result |= {
        "verification": publication.verification,
        "gate": publication.gate,
        "model_version": version.number if version else None,
        "model_path": version.path if version else None,
        "seconds": clock.seconds(),
    }
    folder.write_json("result.json", result)
    if publication.gate is not None:
        folder.write_json("gate.json", publication.gate)
    illustrate_result(examples, ledger, result, folder.file("pictures"))
    show_pictures(folder.file("pictures"), folder.path / "tensorboard", stages.steps(history))
    write_model_card(result, folder.environment, folder.file("model_card.md"))
    write_report(result, folder.environment, folder.file("pictures"), folder.file("report.html"))
    folder.synchronise(say)
    if publication.gate is not None and version is None:
        raise GateRefused(publication.gate["sentence"])
    return result

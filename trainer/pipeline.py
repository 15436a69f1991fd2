"""One run from pictures to a published model, top to bottom; the notebook user's API.

from trainer.config import Config
from trainer.pipeline import run

result = run(Config(data="my_pictures", variant="transfer"))
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from pathlib import Path

from trainer import export, record, training
from trainer.cluster import ALONE, Cluster
from trainer.config import Config
from trainer.data import dataset, sources
from trainer.errors import GateRefused, PicturesChangedError
from trainer.evaluation.judge import explain, judge
from trainer.publish import check_store, publish, require_same_classes
from trainer.reporting import run_report
from trainer.session import Session, Stop, open_session
from whisker_ml.cli import show_log

logger = logging.getLogger(__name__)


def run(
    config: Config,
    *,
    cluster: Cluster = ALONE,
    downloads: Path | None = None,
    stop: Stop | None = None,
    tensorboard: str = "",
    now: Callable[[], datetime] = datetime.now,
) -> record.Result:
    """Trains, evaluates, reports, exports and (with `model_dir`) publishes.

    Progress is logged; where the program has no logging of its own, it is printed.

    Args:
        config: what to do.
        cluster: the processes that share the training, each of which calls this with the same
            config.
        downloads: folder that keeps drawn and downloaded pictures and weights from run to run;
            None: as `--cache_dir` says.
        stop: knows whether the run is to stop; None: nobody asks.
        tensorboard: ``gs://…`` that gets a copy of the run folder's event files; empty: none.
        now: gives the time, which names the run folder.

    Returns:
        What `result.json` holds; `run_dir` in addition. A notebook shows it in words. Empty in a
        worker that is not the chief.

    Raises:
        WhiskerError: something that the user can fix; the run folder says so too.
    """
    show_log()
    begin = partial(
        open_session,
        config,
        cluster=cluster,
        downloads=downloads,
        stop=stop,
        tensorboard=tensorboard,
        now=now,
    )
    while True:
        try:
            return _run(config, begin())
        except PicturesChangedError as error:
            # One worker of several cannot begin anew alone, and a folder that was asked for is
            # kept.
            if config.run_dir or cluster.count > 1:
                raise
            # There may be another run that was not finished.
            logger.info("%s: this command does not resume that run", str(error).partition(";")[0])


def _run(config: Config, opened: AbstractContextManager[Session]) -> record.Result:
    with opened as session:
        # What can fail for want of permission or network fails before the training, not after it.
        store = check_store(config)
        weights = sources.backbone_weights(config, session.downloads)
        data = dataset.load(config, session)
        require_same_classes(store, data.ledger.classes)
        if session.is_chief:
            run_report.draw_data(config, session, data)
        trained = training.train(config, session, data, weights)
        if not session.is_chief:
            session.workers.leave_together()
            return record.Result()
        judged = judge(config, session, data, trained)
        exported = export.write(config, session, data, trained, judged)
        session.stop.obey()
        explain(session, data, trained, judged)
        result = record.compose(config, session, data, trained, judged, exported)
        run_report.draw_result(session, data, result, trained.steps)
        # A version tells of files that are in the run folder, whatever happens from here on.
        session.folder.synchronise()
        session.stop.obey()
        publication = publish(config, session, data, exported, result, store)
        result = record.add_publication(result, publication, session)
        run_report.write(session, result)
        session.folder.synchronise()
        session.workers.leave_together()
        if publication.refused:
            raise GateRefused(result["gate"]["sentence"])
    return record.Result(result, run_dir=session.folder.address)

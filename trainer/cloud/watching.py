"""Watches a job to its end: its state, how training goes, and what it has cost so far."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

from google.cloud.aiplatform_v1.types import CustomJob, JobState

from trainer.cloud.budget import Budget
from trainer.cloud.job_client import ENDED, Jobs
from trainer.errors import CloudError, SignInError
from whisker_ml import storage
from whisker_ml.errors import EXIT_DONE, EXIT_INTERRUPTED, StorageError
from whisker_ml.files import BUCKET_SCHEME

# Between two looks: short at first, as a job that cannot start ends soon.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 15.0
_RUN_DIR = "--run_dir="


def watch(
    jobs: Jobs,
    name: str,
    *,
    price_per_hour: float,
    say: Callable[[str], None],
    ask: Callable[[str], str] | None,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Says a line whenever something has changed, until the job has ended.

    Args:
        jobs: the service's client.
        name: the job's full name.
        price_per_hour: of one worker; 0: unknown.
        say: prints one line.
        ask: puts a question to somebody at a terminal; None: there is nobody. Asked on Ctrl-C
            whether to cancel.
        pause: waits so many seconds.

    Returns:
        Exit code: done, or interrupted while the job goes on.

    Raises:
        CloudError: the job did not succeed, or can no longer be watched.
    """
    try:
        while True:
            try:
                job = _until_ended(jobs, name, price_per_hour, say, pause)
                break
            except KeyboardInterrupt:
                if not _wants_to_cancel(ask):
                    say(f"the job goes on; come back with {jobs.command('watch', name)}")
                    say(f"end it with {jobs.command('cancel', name)}")
                    return EXIT_INTERRUPTED
                jobs.cancel(name)
                say("asked the service to cancel the job; waiting until it has ended")
    except CloudError as error:
        raise type(error)(
            f"{error}; no longer watching: the job may go on, come back with"
            f" {jobs.command('watch', name)}"
        ) from error
    if job.state != JobState.JOB_STATE_SUCCEEDED:
        reason = " ".join(job.error.message.split()) or "no reason given"
        raise CloudError(
            f"the job {_name(job.state)}: {reason}; its log: {jobs.command('logs', name)}"
        )
    return EXIT_DONE


def describe(job: CustomJob) -> str:
    """One line: number, state, time of its creation, name."""
    number = job.name.rpartition("/")[2]
    return f"{number}  {_name(job.state)}  {job.create_time:%Y-%m-%d %H:%M}  {job.display_name}"


def _until_ended(
    jobs: Jobs,
    name: str,
    price_per_hour: float,
    say: Callable[[str], None],
    pause: Callable[[float], None],
) -> CustomJob:
    said, length_s = "", _FIRST_PAUSE_S
    while True:
        job = _look(jobs, name)
        news = f"{_name(job.state)}{_progress(job)}"
        if news != said:
            say(news + _cost(job, price_per_hour))
            said, length_s = news, _FIRST_PAUSE_S
        if job.state in ENDED:
            return job
        pause(length_s)
        length_s = min(length_s * 1.5, _LONGEST_PAUSE_S)


def _look(jobs: Jobs, name: str) -> CustomJob:
    try:
        return jobs.get(name)
    except SignInError:
        # The token has expired: once with what a new sign-in gives.
        jobs.sign_in()
        return jobs.get(name)


def _wants_to_cancel(ask: Callable[[str], str] | None) -> bool:
    try:
        return ask is not None and ask("\ncancel the job? [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False


def _name(state: JobState) -> str:
    return JobState(state).name.removeprefix("JOB_STATE_").lower().replace("_", " ")


def _progress(job: CustomJob) -> str:
    """The newest line of the run folder's metrics.jsonl; nothing where there is none yet, or it
    cannot be read.
    """
    pool = job.job_spec.worker_pool_specs[0]
    folder = next(
        (
            argument
            for argument in pool.container_spec.args
            if argument.startswith(f"{_RUN_DIR}{BUCKET_SCHEME}")
        ),
        "",
    )
    if not folder:
        return ""
    try:
        content, _ = storage.read(f"{folder.removeprefix(_RUN_DIR).rstrip('/')}/metrics.jsonl")
    except StorageError as error:
        return f"  (how training goes cannot be read: {error})"
    lines = content.decode().splitlines()
    if not lines:
        return ""
    row = json.loads(lines[-1])
    return (
        f"  epoch {row['epoch']}  step {row['step']}  accuracy {row['accuracy']:.3f}  validation"
        f" accuracy {row['validation_accuracy']:.3f}  {row['pictures_per_second']:.0f} pictures/s"
    )


def _cost(job: CustomJob, price_per_hour: float) -> str:
    if not job.start_time or not price_per_hour:
        return ""
    workers = sum(pool.replica_count for pool in job.job_spec.worker_pool_specs)
    until = job.end_time or datetime.now(UTC)
    seconds = (until - job.start_time).total_seconds()
    return f"  about {Budget(0, price_per_hour, workers, '').cost(seconds):.2f} so far"

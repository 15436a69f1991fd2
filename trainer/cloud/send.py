"""A run becomes a job: printed, or sent once; and watched to its end."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from google.cloud.aiplatform_v1.types import CustomJob, JobState

from trainer.cloud import Submission, facts, image, is_pinned, specification
from trainer.cloud.jobs_client import ENDED, Jobs, patience
from trainer.config import Config
from trainer.errors import CloudError, ConfigError
from whisker_ml import storage
from whisker_ml.errors import EXIT_DONE, EXIT_INTERRUPTED, PermissionMissingError, StorageError
from whisker_ml.files import is_address, parse_address
from whisker_ml.storage import mapped_errors

logger = logging.getLogger(__name__)


def preview(submission: Submission, config: Config, arguments: Sequence[str]) -> str:
    """The job as a file, below comments: how to send it, what it needs, what nobody has checked.

    Args:
        submission: where, on what and for how long.
        config: the run.
        arguments: its flags that were given, each as ``--name=value``.

    Raises:
        ConfigError: it could not run.
    """
    image_uri = submission.image_uri
    unchecked = [
        "credentials, quota, price, and whether there are such machines just now",
        f"that {image_uri} exists and holds this checkout",
        "that the job's account may read and write the buckets named below, and that they are near",
    ]
    permissions = []
    if submission.platform == "kubernetes":
        contents = specification.kubernetes_objects(submission, arguments, datetime.now(UTC))
        command = "kubectl create --filename=job.yaml"
        if submission.accelerator:
            unchecked.append(
                f"that the cluster has nodes with {submission.accelerator}, and labels them so"
            )
    else:
        content = specification.custom_job(submission, arguments)
        contents = [content]
        command = specification.send_command(content, submission)
        if submission.machine not in facts()["machines"]:
            takes = f" and takes {submission.accelerator} in this number"
            unchecked.append(
                f"that {submission.machine} exists{takes if submission.accelerator else ''}"
            )
        if submission.spot:
            unchecked.append("whether the time limit starts again when a machine is taken away")
        permissions = [
            "Permissions needed, by whom, what for, and where that stands:",
            *(
                f"- {name}  {holder}, {reason}  {page}"
                for holder, name, reason, page in needed(submission)
            ),
        ]
    comments = [f"Saved as job.yaml, sent by: {command}"]
    if submission.build:
        comments += [f"Built first: {line}" for line in image.describe(submission)]
    comments.append(f"Ended after {submission.budget.reason}.")
    if not is_pinned(image_uri):
        remedy = (
            "--build puts the digest in its place."
            if submission.build
            else "without --dry_run this is refused."
        )
        comments.append(f"Note: the image is named by a tag, which can move: {remedy}")
    if not config.run_dir:
        comments.append(
            "Note: without --run_dir=gs://… report, metrics and checkpoints are lost with the"
            " machine."
        )
    comments += ["Not checked:", *(f"- {fact}" for fact in unchecked)]
    return specification.to_yaml(contents, [*comments, *permissions])


# Which commands of the vendor's facts a build and a push are.
_BUILDING = {
    "": (),
    "docker": ("docker push",),
    "cloudbuild": (
        "gcloud builds submit",
        "gcloud artifacts docker images describe",
        "the build",
        "docker push",
    ),
}


def needed(submission: Submission) -> Iterator[tuple[str, str, str, str]]:
    """Lists the permissions that building, sending, watching and running a job need.

    Yields:
        Who needs it, its name, what for, and the page where that stands.
    """
    commands = ("whisker-submit", "whisker-jobs", "the job", *_BUILDING[submission.build])
    for group in facts()["permissions"]:
        command, holder = group["command"], group["holder"]
        if command == "docker push" and submission.build == "docker":
            holder = "you"  # It is this machine that pushes.
        for name, reason, page in group["needs"] if command in commands else ():
            own = command == "whisker-submit" and name == "iam.serviceAccounts.actAs"
            if submission.service_account or not own:
                yield holder, name, reason, page


def send(
    submission: Submission, config: Config, arguments: Sequence[str]
) -> tuple[Jobs, CustomJob]:
    """Checks what can be checked from here, builds the image if asked to, and makes sure that the
    job is there once.

    Args:
        submission: where, on what and for how long.
        config: the run.
        arguments: its flags that were given, each as ``--name=value``.

    Returns:
        The service's client, and the job.

    Raises:
        WhiskerError: it could not run, or the service refuses it; nothing was started.
    """
    # Everything that can be refused without a build comes before the build.
    specification.labels(specification.custom_job(submission, arguments), submission.display_name)
    jobs = Jobs(submission.project, submission.region, submission.api_endpoint)
    addresses = [
        value for value in (config.data, config.run_dir, config.model_dir) if is_address(value)
    ]
    require_near(addresses, submission.region)
    if submission.build:
        submission = replace(submission, image_uri=image.build(submission), build="")
    spec = specification.custom_job(submission, arguments)
    job = CustomJob(
        display_name=submission.display_name,
        job_spec=specification.require_message(spec),
        labels=specification.labels(spec, submission.display_name),
    )
    try:
        job, new = jobs.submit(job)
    except KeyboardInterrupt as interrupt:
        raise CloudError(
            "interrupted while sending: the job may be there; see whisker-jobs list "
            f"--project={submission.project} --region={submission.region}"
        ) from interrupt
    if new:
        logger.info(f"sent {job.name}, {submission.image_uri}")
    else:
        logger.info(
            f"not sent again: the same run is {job.name} ({_name(job.state)}, of"
            f" {job.create_time:%Y-%m-%d %H:%M} UTC); another --display_name runs it once more"
        )
    logger.info(f"ended by the service after {submission.budget.reason}")
    logger.info(f"watch it with {jobs.command('watch', job.name)}")
    return jobs, job


# Watches a job to its end: its state, how training goes, and what it has cost so far.

# Between two looks: short at first, as a job that cannot start ends soon.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 15.0


def watch(
    jobs: Jobs,
    name: str,
    *,
    price_per_hour: float,
    ask: Callable[[str], str] | None,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Says a line whenever something has changed, until the job has ended.

    Args:
        jobs: the service's client.
        name: the job's full name.
        price_per_hour: of one worker; 0: unknown.
        ask: puts a question to somebody at a terminal; None: there is nobody. Asked on Ctrl-C
            whether to cancel.
        pause: waits so many seconds.

    Returns:
        Exit code: done, or interrupted while the job goes on.

    Raises:
        CloudError: the job did not succeed, or can no longer be watched.
    """
    shown, length_s, ended = "", _FIRST_PAUSE_S, False
    try:
        while not ended:
            try:
                job = jobs.get(name)
                news, ended = f"{_name(job.state)}{_progress(job)}", job.state in ENDED
                if news != shown:
                    logger.info(news + _cost(job, price_per_hour))
                    shown, length_s = news, _FIRST_PAUSE_S
                if not ended:
                    pause(length_s)
                    length_s = min(length_s * 1.5, _LONGEST_PAUSE_S)
            except KeyboardInterrupt:
                if not _wants_to_cancel(ask):
                    logger.info(f"the job still runs; come back with {jobs.command('watch', name)}")
                    logger.info(f"end it with {jobs.command('cancel', name)}")
                    return EXIT_INTERRUPTED
                jobs.cancel(name)
                logger.info("asked the service to cancel the job; waiting until it has ended")
    except CloudError as error:
        raise type(error)(
            f"{error}; no longer watching: the job may still run, come back with"
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
    flags = (
        argument.partition("=")
        for argument in job.job_spec.worker_pool_specs[0].container_spec.args
    )
    folder = {name: value for name, _, value in flags}.get("--run_dir", "")
    if not is_address(folder):
        return ""
    try:
        content, _ = storage.read(f"{folder.rstrip('/')}/metrics.jsonl")
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
    hours = (until - job.start_time).total_seconds() / 3600
    return f"  about {hours * price_per_hour * workers:.2f} so far"


# Whether buckets lie where the job runs: bytes that cross regions are slow, and billed.
#
# Locations of buckets: cloud.google.com/storage/docs/locations, as of 2026-11-22.

# Multi-regions, and how the names of the regions in them begin.
_AREAS = {"US": "us-", "EU": "europe-", "ASIA": "asia-"}


def require_near(addresses: Iterable[str], region: str) -> None:
    """Refuses buckets that are not there, or in another region.

    Args:
        addresses: ``gs://…``.
        region: where the job runs.

    Raises:
        ConfigError: a bucket lies elsewhere.
        StorageError: it is not there, or cannot be asked about.
    """
    for name in sorted({parse_address(address)[0] for address in addresses}):
        try:
            most_s = storage.CALL["retry"].timeout
            with (
                mapped_errors(f"gs://{name}"),
                patience(f"gs://{name}", most_s),
                storage.client() as client,
            ):
                location = client.get_bucket(name, **storage.CALL).location
        except PermissionMissingError as error:
            logger.info(f"not checked whether it is in {region}: {error}")
            continue
        near = is_near(location, region)
        if near is None:
            logger.info(
                f"not checked whether it is in {region}: gs://{name} is in {location}, a pair of"
                " regions"
            )
        elif not near:
            raise ConfigError(
                f"gs://{name} is in {location} and the job in {region}: every byte between them is"
                f" billed and slow; give the bucket's --region, or a bucket in {region}"
            )


def is_near(location: str, region: str) -> bool | None:
    """Tells whether a bucket's location holds a region; None of a pair of regions, whose names are
    not known here.
    """
    if location in _AREAS:
        return region.startswith(_AREAS[location])
    return location.lower() == region if "-" in location else None

"""Makes a job of a run and what is asked of the cloud: printed, or sent once."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from google.cloud.aiplatform_v1.types import CustomJob

from trainer.cloud import image, kubernetes, machines, permissions, regions, vertex
from trainer.cloud.job_client import Jobs
from trainer.cloud.submission import Submission
from trainer.config import Config
from trainer.errors import CloudError
from whisker_ml.files import is_address


def preview(asked: Submission, config: Config, arguments: Sequence[str]) -> str:
    """The job as a file, below comments: how to send it, what it needs, what nobody has checked.

    Args:
        asked: of the cloud.
        config: the run.
        arguments: its flags that were given, each as ``--name=value``.

    Raises:
        ConfigError: it could not run.
    """
    lines = []
    if asked.build:
        lines += [
            f"Built first: {line}"
            for line in image.describe(asked.build, asked.image_uri, asked.project)
        ]
    lines.append(f"Ended after {asked.budget.reason}.")
    unchecked = [
        "credentials, quota, price, and whether there are such machines just now",
        f"that {asked.image_uri} exists and holds this checkout",
        "that the job's account may read and write the buckets named below, and that they are near",
    ]
    if not image.is_pinned(asked.image_uri):
        lines.append(
            "Note: the image is named by a tag, which can move: "
            + (
                "--build puts the digest in its place."
                if asked.build
                else "without --dry_run this is refused."
            )
        )
    if not config.run_dir:
        lines.append(
            "Note: without --run_dir=gs://… report, metrics and checkpoints are lost with the"
            " machine."
        )
    if asked.platform == "kubernetes":
        if asked.accelerator:
            unchecked.append(
                f"that the cluster has nodes with {asked.accelerator}, and labels them so"
            )
        sent = "kubectl create --filename=job.yaml"
        return vertex.to_yaml(
            kubernetes.manifest(asked, arguments),
            [f"Saved as job.yaml, sent by: {sent}", *lines, *_listed(unchecked)],
        )
    spec = vertex.specification(asked, arguments)
    sent = vertex.send_command(spec, asked.display_name, project=asked.project, region=asked.region)
    unchecked.append(machines.unchecked(asked.machine, asked.accelerator))
    if asked.spot:
        unchecked.append("whether the time limit counts anew when a machine is taken away")
    needed = permissions.needed(service_account=asked.service_account, build=asked.build)
    return vertex.to_yaml(
        spec,
        [
            f"Saved as job.yaml, sent by: {sent}",
            *lines,
            *_listed(unchecked),
            "Permissions needed, by whom, what for, and where that stands:",
            *(f"- {each.name}  {each.holder}, {each.reason}  {each.page}" for each in needed),
        ],
    )


def send(
    asked: Submission, config: Config, arguments: Sequence[str], say: Callable[[str], None]
) -> tuple[Jobs, CustomJob]:
    """Checks what can be checked from here, builds the image if asked to, and makes sure that the
    job is there once.

    Args:
        asked: of the cloud.
        config: the run.
        arguments: its flags that were given, each as ``--name=value``.
        say: prints one line.

    Returns:
        The service's client, and the job.

    Raises:
        WhiskerError: it could not run, or the service refuses it; nothing was started.
    """
    # Everything that can be refused without a build comes before the build.
    vertex.labels(vertex.specification(asked, arguments), asked.display_name)
    jobs = Jobs(asked.project, asked.region, asked.api_endpoint)
    addresses = [
        value for value in (config.data, config.run_dir, config.model_dir) if is_address(value)
    ]
    regions.require_near(addresses, asked.region, say)
    if asked.build:
        pinned = image.build(asked.build, asked.image_uri, asked.project, say=say)
        asked = replace(asked, image_uri=pinned, build="")
    spec = vertex.specification(asked, arguments)
    job = CustomJob(
        display_name=asked.display_name,
        job_spec=vertex.require_message(spec),
        labels=vertex.labels(spec, asked.display_name),
    )
    try:
        job, new = jobs.submit(job)
    except KeyboardInterrupt as interrupt:
        raise CloudError(
            "interrupted while sending: the job may be there; see python -m trainer.jobs list "
            f"--project={asked.project} --region={asked.region}"
        ) from interrupt
    if new:
        say(f"sent {job.name}, {asked.image_uri}")
    else:
        state = job.state.name.removeprefix("JOB_STATE_").lower()
        say(
            f"not sent again: the same run is {job.name} ({state}, of"
            f" {job.create_time:%Y-%m-%d %H:%M} UTC); another --display_name runs it once more"
        )
    say(f"ended by the service after {asked.budget.reason}")
    say(f"watch it with {jobs.command('watch', job.name)}")
    return jobs, job


def _listed(unchecked: Sequence[str]) -> list[str]:
    return ["Not checked:", *(f"- {fact}" for fact in unchecked if fact)]

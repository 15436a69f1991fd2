"""Sends a run of `whisker-train` as a job to a cloud GPU, and on a terminal watches it.

  whisker-submit --project=my-project --region=us-central1 \\
    --image_uri=…@sha256:… --data=gs://… --run_dir=gs://… --model_dir=gs://…
  whisker-submit --dry_run --image_uri=… --data=gs://… --run_dir=gs://…
  whisker-submit --dry_run --platform=kubernetes --image_uri=… --run_dir=gs://…

--dry_run prints what `gcloud ai custom-jobs create --config` accepts, without credentials or
network. Every flag of `whisker-train` is forwarded.
"""

import sys
from collections.abc import Sequence

from trainer.cloud import Submission, require_remote
from trainer.config import Config
from trainer.errors import ConfigError
from whisker_ml import cli


def main() -> None:
    """Entry point of `python -m trainer.submit` and `whisker-submit`."""
    cli.define_settings(Submission)
    cli.define_settings(Config)
    cli.run(_submit, extra="cloud")


def _submit(arguments: Sequence[str]) -> int | None:
    if len(arguments) > 1:
        raise ConfigError(
            f"{arguments[1]} is not a flag: expected --name=value only; --help lists the flags"
        )
    config = cli.settings(Config)
    submission = cli.settings(Submission)
    require_remote(config)
    submission.require_run(config)

    # A second and the extra `cloud`: not for --help or a mistyped flag.
    from trainer.cloud import send

    if submission.dry_run:
        print(send.preview(submission, config, cli.given_flags(Config)), end="")
        return None
    jobs, job = send.send(submission, config, cli.given_flags(Config))
    if submission.detach or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    return send.watch(jobs, job.name, price_per_hour=submission.price_per_hour, ask=input)


if __name__ == "__main__":
    main()

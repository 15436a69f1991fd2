"""Lists, watches and cancels jobs in the cloud that `whisker-submit` has sent.

  whisker-jobs list --project=my-project --region=us-central1
  whisker-jobs watch 1234567890 --project=my-project --region=us-central1
  whisker-jobs cancel 1234567890 --project=my-project --region=us-central1

`logs` prints what a job has logged. `serve` starts a rehearsal cloud on this machine, for trying
these commands without an account.
"""

import sys
from collections.abc import Sequence

from absl import flags

from trainer import cloud
from trainer.errors import ConfigError
from whisker_ml import cli

_VERBS = ("list", "watch", "logs", "cancel", "serve")


def main() -> None:
    """Entry point of `python -m trainer.jobs` and `whisker-jobs`."""
    cli.define_settings(cloud.Submission, only=("project", "region", "api_endpoint"))
    cli.define(
        "price_per_hour",
        0.0,
        "watch: what one worker costs, in your currency; 0: unknown",
        minimum=0.0,
        group="Job",
    )
    meaning = "serve: of the job service; the bucket has the next one; 0: free ones"
    cli.define("port", 8600, meaning, group="Job")
    cli.run(_jobs, extra="rehearsal" if "serve" in sys.argv else "cloud")


def _jobs(arguments: Sequence[str]) -> int | None:
    verb, *which = arguments[1:] or [""]
    if verb not in _VERBS or len(which) != (verb not in ("list", "serve")):
        raise ConfigError(
            f"{' '.join(arguments[1:])}: expected list or serve, or one of watch, logs and"
            " cancel with a job's number"
        )
    values = flags.FLAGS
    if verb == "serve":
        # Its extra is not for --help or a mistyped flag, nor for the other verbs.
        from trainer.cloud import rehearsal

        rehearsal.serve(values.project, values.region, values.port)
    cloud.require_form(
        project=values.project, region=values.region, api_endpoint=values.api_endpoint
    )

    # A second and the extra `cloud`: not for --help or a mistyped flag.
    from trainer.cloud import jobs_client, send

    jobs = jobs_client.Jobs(values.project, values.region, values.api_endpoint)
    if verb == "list":
        for job in jobs.list():
            print(send.describe(job), flush=True)
        return None
    name = jobs.name(which[0])
    if verb == "watch":
        ask = input if sys.stdin.isatty() else None
        return send.watch(jobs, name, price_per_hour=values.price_per_hour, ask=ask)
    if verb == "logs":
        for line in jobs.log(name):
            print(line, flush=True)
        return None
    jobs.cancel(name)
    print(f"asked the service to cancel {name}; see it end with {jobs.command('watch', name)}")
    return None


if __name__ == "__main__":
    main()

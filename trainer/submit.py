"""The run of `trainer.task` as a job on a cloud GPU.

``python -m trainer.submit --dry_run --image_uri=… --data=gs://… --run_dir=gs://… --model_dir=gs://… > job.yaml``
prints what ``gcloud ai custom-jobs create --config=job.yaml`` accepts, without credentials or network. Every flag of
`trainer.task` is forwarded.
"""

import sys
from collections.abc import Sequence

from absl import flags

import trainer.flags
from serving import command_line
from trainer.cloud import machines, paths
from trainer.errors import ConfigError


def main() -> None:
    """Defines the flags, runs the command, and exits."""
    trainer.flags.define()
    # Flags of the running command, whichever way it was started: --help lists no others.
    here = sys.argv[0]
    text = flags.ArgumentParser()
    flags.DEFINE_flag(flags.BooleanFlag("dry_run", False, "print the job and send nothing"), module_name=here)
    flags.DEFINE(text, "image_uri", "", "container image that holds the trainer", module_name=here)
    flags.DEFINE(text, "machine", machines.DEFAULT_MACHINE, "machine type", module_name=here)
    flags.DEFINE(text, "accelerator", machines.DEFAULT_ACCELERATOR, "accelerator type; empty: none", module_name=here)
    flags.DEFINE(flags.IntegerParser(), "accelerator_count", 1, "accelerators in the machine", module_name=here)
    flags.DEFINE(text, "display_name", "whisker", "the job's name in the console", module_name=here)
    command_line.run(_submit)


def _submit(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
        raise ConfigError(f"{arguments[1]} is no flag: expected --name=value only; --help lists the flags")
    config = trainer.flags.config()
    paths.require_remote(config)

    # Half a second and the extra `cloud`: not for --help or a mistyped flag.
    from trainer.cloud import vertex

    asked = flags.FLAGS
    spec = vertex.specification(
        image_uri=asked.image_uri,
        arguments=trainer.flags.arguments(),
        machine=asked.machine,
        accelerator=asked.accelerator,
        accelerator_count=asked.accelerator_count,
    )
    job = vertex.to_yaml(spec, display_name=asked.display_name, run_dir=config.run_dir)
    if not asked.dry_run:
        raise ConfigError(
            "sending is not built yet: run the same with --dry_run, save the output as job.yaml and send it with "
            + vertex.send_command(asked.display_name)
        )
    print(job, end="")


if __name__ == "__main__":
    main()

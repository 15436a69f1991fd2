"""Trains one model on a folder of pictures, judges it, reports, exports and publishes it.

  whisker-train --data=my_pictures --variant=transfer --model_dir=models
  whisker-train --data=my_pictures --variant=transfer --recipe=best
  whisker-train --data=cats_and_dogs --split=hold_out --run_dir=runs/first

The environment variable TF_CONFIG may name several workers, which are started with the same
command. In a custom job of Vertex AI, AIP_MODEL_DIR and AIP_CHECKPOINT_DIR stand for --model_dir
and --run_dir where these are not given.
"""

import os
from collections.abc import Sequence

from trainer import cloud, cluster
from trainer.config import Config
from trainer.errors import ConfigError
from whisker_ml import cli


def main() -> None:
    """Entry point of `python -m trainer.task` and `whisker-train`."""
    cli.define_settings(Config)
    cli.run(_train)


def _train(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
        raise ConfigError(f"{arguments[1]}: expected flags only, such as --data={arguments[1]}")
    config = cli.settings(Config, cloud.environment_settings(os.environ))
    workers = cluster.parse(os.environ.get("TF_CONFIG"))
    # Here, as a bare --help needs no extra.
    from trainer.data import sources

    sources.require(config.data, config.classes, config.exclude)
    cli.import_tensorflow()
    from trainer.pipeline import run
    from trainer.session import Stop

    stop = Stop()
    stop.install()
    result = run(
        config, cluster=workers, stop=stop, tensorboard=os.environ.get(cloud.TENSORBOARD, "")
    )
    if result:  # else the chief has it
        print("\n".join(result.lines()))


if __name__ == "__main__":
    main()

"""Trains variants with several seeds on one split, each in a process of its own, and lists them in
one table.

python -m trainer.compare --data=my_pictures --variants=preprocessed,transfer --seeds=0,1,2 \\
    --run_dir=runs/compare

The same command resumes where it was stopped: what is done is not done again.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.variants import VARIANTS
from whisker_ml import cli
from whisker_ml.errors import EXIT_USAGE
from whisker_ml.files import is_address

_DEFAULT_RUN_DIR = "runs/compare"
_DEFAULT_SEEDS = "0,1,2"

# Flags of one run that a comparison cannot pass on, and what to do instead.
_NOT_OURS = {
    "variant": "a comparison trains several; use --variants",
    "seed": "a comparison takes several; use --seeds",
    "model_dir": (
        "a comparison publishes nothing; train what you choose with trainer.task and publish that"
    ),
}


def main() -> None:
    """Entry point of `python -m trainer.compare` and `whisker-compare`."""
    cli.define_settings(Config)
    cli.define("variants", ",".join(VARIANTS), "variants to train, with commas between")
    cli.define("seeds", _DEFAULT_SEEDS, "seeds to train each with, with commas between")
    cli.run(_compare)


def _compare(arguments: Sequence[str]) -> int | None:
    if len(arguments) > 1:
        raise ConfigError(f"{arguments[1]}: expected flags only, such as --data={arguments[1]}")
    values = flags.FLAGS
    for name, instead in _NOT_OURS.items():
        if values[name].present:
            raise ConfigError(f"--{name}={values[name].value}: {instead}")
    folder = values.run_dir or _DEFAULT_RUN_DIR
    if is_address(folder):
        raise ConfigError(
            f"--run_dir={folder}: a comparison keeps its runs on this machine; give a local folder"
        )
    passed_on = [
        argument for argument in cli.given_flags(Config) if not argument.startswith("--run_dir=")
    ]

    # It needs NumPy and the extra `train`: not for --help or a mistyped flag.
    from trainer import comparison

    # Seed by seed, so that a comparison that is stopped early has seen every variant.
    runs = []
    for seed in dict.fromkeys(_numbers(values.seeds)):
        for variant in dict.fromkeys(values.variants.split(",")):
            config = cli.settings(
                Config,
                variant=variant,
                seed=seed,
                run_dir=str(Path(folder).expanduser() / f"{variant}-seed{seed}"),
            )
            runs.append(comparison.Run(config, passed_on))
    problems = comparison.compare(runs, Path(folder).expanduser())
    for problem in problems:
        print(problem, file=sys.stderr)
    return EXIT_USAGE if problems else None


def _numbers(seeds: str) -> list[int]:
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"--seeds={seeds}: expected whole numbers with commas between, such as 0,1,2"
        ) from error


if __name__ == "__main__":
    main()

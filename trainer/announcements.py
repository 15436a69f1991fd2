"""What a run says of its devices and its pictures before it trains, and where it says it."""

from collections.abc import Callable

from trainer.config import Config
from trainer.data.ledger import Ledger
from trainer.training.devices import Devices

_LEFT_OUT_SHOWN = 10


def say_on_screen(line: str) -> None:
    """Prints a line; a log file shows it as soon as it is known, as a terminal does."""
    print(line, flush=True)


def say_nothing(line: str) -> None:
    """Keeps a line to itself."""
    del line


def say_devices(config: Config, devices: Devices, say: Callable[[str], None]) -> None:
    """Says what computes, and how a batch is shared."""
    per_replica = -(-config.batch_size // devices.replicas)
    say(
        f"devices {', '.join(devices.names)}; {devices.replicas}"
        f" replica{'s' * (devices.replicas > 1)} ({devices.strategy_name}); batch"
        f" {config.batch_size} in all,"
        f" {'up to ' * (config.batch_size % devices.replicas > 0)}{per_replica} per replica;"
        f" {devices.precision}"
    )


def say_data(ledger: Ledger, say: Callable[[str], None]) -> None:
    """Says how many pictures there are, and which files are left out."""
    sizes = ", ".join(
        f"{split} {sum(counts.values())}" for split, counts in ledger.counts().items()
    )
    say(f"{len(ledger.pictures)} pictures of {len(ledger.classes)} classes: {sizes}")
    if ledger.left_out:
        say(f"{len(ledger.left_out)} files left out:")
        for file in ledger.left_out[:_LEFT_OUT_SHOWN]:
            say(f"  {file.path}: {file.reason}")
        if len(ledger.left_out) > _LEFT_OUT_SHOWN:
            say(f"  and {len(ledger.left_out) - _LEFT_OUT_SHOWN} more, all in ledger.json")

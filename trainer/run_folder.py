"""The run folder: one run's record, begun before the first step and marked with how it ended."""

import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from serving.errors import WhiskerError
from serving.store import bucket
from serving.store.address import is_address
from trainer.config import Config
from trainer.errors import RunError

_COMMIT_TIMEOUT_S = 10.0


class RunFolder:
    """Where a run writes.

    Attributes:
        path: the folder on this machine.
        address: what the user calls it: the same, or ``gs://…``, to which it is copied when the run ends.
        environment: what `environment.json` holds: versions, devices, commit.
    """

    def __init__(self, path: Path, address: str, environment: Mapping[str, str]) -> None:
        self.path = path
        self.address = address
        self.environment = environment

    def file(self, *names: str) -> Path:
        """Path of a file of the run; the folders on the way are made."""
        path = self.path.joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a JSON file so that a reader finds all of it or none."""
        part = self.file(f".{name}.part")
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(self.file(name))

    def write_predictions(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes `predictions.jsonl`: `sha256`, `split`, `label` and `logits` of a picture a line."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.file("predictions.jsonl").write_text(lines, encoding="utf-8")


@contextmanager
def open_run(config: Config, devices: Sequence[str], now: datetime) -> Iterator[RunFolder]:
    """Begins a run folder, and marks in `state.json` how the run ended: ``done``, or ``failed`` with the reason.

    Raises:
        RunError: the folder cannot be written, or holds a run already.
    """
    address = config.run_dir or f"runs/{now:%Y%m%d-%H%M%S}-{config.variant}"
    with _local_folder(address) as path:
        run = RunFolder(path, address, _environment(devices))
        try:
            run.write_json("state.json", {"state": "incomplete", "started": now.isoformat(timespec="seconds")})
            run.write_json("config.json", asdict(config))
            run.write_json("environment.json", run.environment)
        except OSError as error:
            raise RunError(_unwritable(address, error)) from error
        try:
            yield run
        except OSError as error:
            _mark(run, "failed", str(error))
            raise RunError(
                f"{run.address}: {error.strerror} ({error.filename}); free space or give permission"
            ) from error
        except BaseException as error:
            _mark(run, "failed", str(error) or type(error).__name__)
            raise
        _mark(run, "done", None)


@contextmanager
def _local_folder(address: str) -> Iterator[Path]:
    if is_address(address):
        if bucket.list_names(address):
            raise RunError(_taken(address))
        with tempfile.TemporaryDirectory(prefix="whisker-run-") as folder:
            try:
                yield Path(folder)
            finally:
                bucket.upload_folder(Path(folder), address)
        return
    path = Path(address).expanduser()
    if (path / "state.json").exists():
        raise RunError(_taken(address))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(_unwritable(address, error)) from error
    yield path


def _taken(address: str) -> str:
    return f"--run_dir={address}: holds a run already; give another folder, or remove this one"


def _unwritable(address: str, error: OSError) -> str:
    return f"--run_dir={address}: cannot be written ({error.strerror}); give a folder that this user may write to"


def _mark(run: RunFolder, state: str, reason: str | None) -> None:
    content = json.loads(run.file("state.json").read_text(encoding="utf-8"))
    content["state"] = state
    if reason is not None:
        content["reason"] = reason
    try:
        run.write_json("state.json", content)
    except OSError as error:
        # The disk is what failed: the state stays incomplete, and the error that led here is the one to tell.
        if state == "done":
            raise WhiskerError(_unwritable(run.address, error)) from error


def _environment(devices: Sequence[str]) -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": str(os.cpu_count()),
        **{name: version(name) for name in ("tensorflow", "keras", "numpy")},
        "devices": ", ".join(devices),
        "commit": _commit(),
    }


def _commit() -> str:
    """Commit of the checkout that this code runs from, with ``+`` where files differ from it; else ``unknown``."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=_COMMIT_TIMEOUT_S, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=_COMMIT_TIMEOUT_S,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+" if changed else "")

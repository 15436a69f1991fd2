"""Looks at a models.config and all that it names, before a server is started on it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving.client.local_server import LocalServerFailed, local_server
from serving.config import ConfigError, models_config
from serving.config.models_config import PLATFORM
from serving.rollout import AVAILABLE, END, RunningServer
from serving.store import ModelStore, open_store
from serving.store.manifest import MANIFEST_FILE
from whisker_ml.contract import SAVED_MODEL_FILE, WARMUP_FILE
from whisker_ml.errors import StorageError
from whisker_ml.files import is_address

_MODEL_TYPE_TENSORFLOW = 1
_POLL_S = 0.1


def check(path: str, timeout_s: float) -> tuple[list[str], bool]:
    """Finds what would keep a server from serving what the file names.

    Where a version brings warm-up records along, the local server is started on the file once, and
    so replays them.

    Args:
        path: of the models.config, local or gs://.
        timeout_s: how long the local server may take to load everything.

    Returns:
        A line for each finding, none where all is well; and whether the versions were loaded.

    Raises:
        ConfigError: the file cannot be read, or a server would refuse it.
        StorageError: the bucket that it lies in cannot be read.
    """
    models = models_config.parse(_read(path), path).model_config_list.config
    findings = [] if models else [f"{path} lists no model"]
    pending: set[tuple[str, int]] = set()
    warm = False
    for model in models:
        try:
            store = _store(model)
            names = _names(model, store)
            findings += [f"{model.name}: {text}" for text in _look(model, names, store)]
        except StorageError as error:
            findings.append(f"{model.name}: {error}")
            continue
        pending |= {(model.name, version) for version in names}
        warm = warm or any(WARMUP_FILE in files for files in names.values())
    return (findings + _replay(path, pending, timeout_s) if warm else findings), warm


def _read(path: str) -> bytes:
    if is_address(path):
        from whisker_ml import storage

        content, generation = storage.read(path)
        if generation:
            return content
        reason = "is not there"
    else:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
    raise ConfigError(
        f"{path} {reason}: expected a models.config; name another file, or another --model_dir"
    )


def _store(model: Any) -> ModelStore:
    """Opens the store that a model's versions lie in."""
    base_path = model.base_path.rstrip("/")
    if "://" in base_path and not is_address(base_path):
        raise StorageError(f"{base_path} cannot be read from here: expected a path or gs://")
    root, _, folder = base_path.rpartition("/")
    return open_store(root or "/", folder)


def _names(model: Any, store: ModelStore) -> dict[int, set[str]]:
    """Lists the files of every version that the server would load, and that is there."""
    there = store.versions()
    policy = model.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    wanted = there
    if choice == "specific":
        wanted = [version for version in there if version in policy.specific.versions]
    elif choice != "all":
        wanted = there[-(policy.latest.num_versions or 1) :]
    return {version: store.files(version) for version in wanted}


def _look(model: Any, names: dict[int, set[str]], store: ModelStore) -> Iterator[str]:
    if model.model_platform not in ("", PLATFORM) or model.model_type not in (
        0,
        _MODEL_TYPE_TENSORFLOW,
    ):
        yield (
            f"the platform is {model.model_platform or model.model_type}: expected model_platform:"
            f' "{PLATFORM}"'
        )
    if not names:
        yield (
            f"{model.base_path} has no version to load: a server waits for one for ever, and serves"
            " no other model until then"
        )
    for version in model.model_version_policy.specific.versions:
        if version not in names:
            yield (
                f"version {version} is to be loaded, but {model.base_path}/{version} has no"
                f" {SAVED_MODEL_FILE}"
            )
    for label, version in sorted(model.version_labels.items()):
        if version not in names:
            yield (
                f"the label {label} is on version {version}, which is not loaded: move it to one of"
                f" {sorted(names)}"
            )
    for version, files in sorted(names.items()):
        has_data = any(name.startswith("variables/variables.data-") for name in files)
        if "variables/variables.index" not in files or not has_data:
            yield (
                f"version {version} is incomplete: variables/ has no variables.index, or no"
                " variables.data"
            )
        try:
            if MANIFEST_FILE in files:
                store.verify(version)
        except StorageError as error:
            yield str(error)


def _replay(path: str, pending: set[tuple[str, int]], timeout_s: float) -> list[str]:
    """Starts the local server on the file, and lists what does not load."""
    flags = ["--max_num_load_retries=0", "--start_with_what_loads"]
    findings = []
    deadline = time.monotonic() + timeout_s
    try:
        with (
            local_server(
                model_config_file=path, start_timeout_s=timeout_s, extra_flags=flags
            ) as local,
            RunningServer(f"127.0.0.1:{local.port}") as server,
        ):
            while pending and time.monotonic() < deadline:
                for model, version in sorted(pending):
                    status = server.versions(model).get(version)
                    if status is None or status.state not in (AVAILABLE, END):
                        continue
                    pending.remove((model, version))
                    if status.state == END:
                        findings.append(f"{model}: version {version} does not load: {status.error}")
                time.sleep(_POLL_S if pending else 0)
    except LocalServerFailed as error:
        return [f"the local server does not start on {path}: {error}"]
    if pending:
        late = ", ".join(f"{model} {version}" for model, version in sorted(pending))
        findings.append(
            f"not loaded after {timeout_s:g} s: {late}; give more time with --timeout_s"
        )
    return findings

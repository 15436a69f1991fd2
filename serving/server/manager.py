"""The lifecycle of models: which versions are loaded, in which state, under which labels.

One thread (`start`) does all the work: it looks at files, loads and unloads, one version after the
other. Requests come from many threads and only look up and count.

Locking rule of the whole server: `Manager._lock` guards everything that requests and that thread
share (models, versions with their states and counts, labels); it is held for look-ups alone, never
while a file is read, a model is loaded, run or closed, and no other lock is taken under it.
`batching.Scheduler` has a lock of its own for its queues, with the same restraint.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import grpc
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from serving.server.discovery import (
    State,
    Version,
    aspire,
    aspired,
    check,
    next_action,
    scan,
)
from serving.server.flags import DEFAULTS, Flags
from serving.server.servable import Servable, one_line
from serving.server.status import StatusError, failed_precondition, internal, not_found

# AspiredVersionsManager's manage_state_interval_micros.
_TICK_S = 0.1

_log = logging.getLogger(__name__)


class Manager:
    """Keeps what is loaded in step with the configuration and the file system.

    Attributes:
        stopping: set when the server ends.
    """

    def __init__(
        self,
        load: Callable[[int, str], Servable],
        read_config: Callable[[], ModelServerConfig],
        flags: Flags = DEFAULTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Serves nothing until `apply`.

        Args:
            load: loads a version from a number and a path, or raises a StatusError.
            read_config: reads the configuration anew, at every
                `model_config_file_poll_wait_seconds`.
            flags: what they say about the lifecycle.
            clock: seconds, monotonic.
        """
        self._load = load
        self._read_config = read_config
        self._flags = flags
        self._clock = clock
        self._lock = threading.Lock()
        self._models: dict[str, ModelConfig] = {}
        self._versions: dict[str, dict[int, Version]] = {}
        self._looked_at: set[str] = set()
        self._next_poll: float | None = None
        # Touched by the working thread alone.
        self._complaints: dict[str, str] = {}
        self._next_config_poll = clock() + flags.model_config_file_poll_wait_seconds
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="model-manager", daemon=True)

    def apply(self, config: ModelServerConfig) -> list[str]:
        """Replaces the configuration; loading and unloading follow in the working thread.

        Labels come first, as in the real server: one that names a version which is not loaded
        refuses the whole.

        Returns:
            Names that the old configuration did not have.

        Raises:
            StatusError: the configuration is refused; the old one stays.
        """
        if config.WhichOneof("config") is None:
            _log.info("Taking no action for empty config.")
            return []
        check(config)
        models = {model.name: model for model in config.model_config_list.config}
        with self._lock:
            for model in models.values():
                self._check_labels(model)
            new = [name for name in models if name not in self._models]
            self._models = models
            for version in self._all_versions():
                version.aspired = version.aspired and version.model in models
            if self._flags.file_system_poll_wait_seconds >= 0:
                self._next_poll = self._clock()
        return new

    def start(self) -> None:
        """Starts the working thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ends the working thread, and tells whether nothing is at work any more: no load, no
        request.
        """
        self.stopping.set()
        self._thread.join(timeout_s)
        with self._lock:
            return not self._thread.is_alive() and all(
                version.handles == 0 for version in self._all_versions()
            )

    def ready(self, names: Sequence[str] | None = None) -> bool:
        """Tells whether every configured model has an available version.

        Args:
            names: look at these alone, new ones of a reload.

        Raises:
            StatusError: UNKNOWN, one of them has failed for good; the text is the real server's.
        """
        failed, missing = [], []
        lenient = self._flags.start_with_what_loads and names is None
        with self._lock:
            for name in self._models if names is None else names:
                versions = [one for one in self._versions.get(name, {}).values() if one.aspired]
                states = {version.state for version in versions}
                if State.AVAILABLE in states:
                    continue
                tried = name in self._looked_at and all(version.error for version in versions)
                if lenient and tried:
                    missing.append(name)
                elif states == {State.END}:
                    newest = max(versions, key=lambda version: version.number)
                    failed.append(f"{{{newest} due to error: {newest.error}}}, ")
                else:
                    return False
        if failed:
            noun = "servable" if names is None else "model"
            text = f"{len(failed)} {noun}(s) did not become available: {{{''.join(failed)}}}"
            raise StatusError(grpc.StatusCode.UNKNOWN, text)
        if missing:
            _log.warning("starting without %s", ", ".join(missing))
        return True

    def names(self) -> list[str]:
        """Lists the configured models."""
        with self._lock:
            return sorted(self._models)

    def unavailable(self) -> list[str]:
        """Lists the configured models that no version is available of."""
        with self._lock:
            loaded = {
                version.model
                for version in self._all_versions()
                if version.state == State.AVAILABLE
            }
            return sorted(set(self._models) - loaded)

    @contextmanager
    def use(self, model: str, number: int | None = None, label: str = "") -> Iterator[Servable]:
        """Lends a loaded version; it is not unloaded before it is given back.

        Args:
            model: name of the model.
            number: a version; None for the newest available one.
            label: a label instead of `number`; empty for none.

        Raises:
            StatusError: nothing loaded fits.
        """
        with self._lock:
            version = self._find(model, number, label)
            version.handles += 1
            servable = version.servable
        assert servable is not None  # noqa: S101 - _find returns available versions only
        try:
            yield servable
        finally:
            with self._lock:
                version.handles -= 1
            self._close_if_idle(version)

    def states(
        self, model: str, number: int | None = None
    ) -> list[tuple[int, State, StatusError | None]]:
        """Lists versions with state and error, the highest first, those unloaded included.

        Raises:
            StatusError: NOT_FOUND, there has never been such a version.
        """
        with self._lock:
            versions = self._versions.get(model, {})
            if number is not None and number not in versions:
                raise not_found(f"Could not find version {number} of model {model}")
            if not versions:
                raise not_found(f"Could not find any versions of model {model}")
            chosen = sorted(versions, reverse=True) if number is None else [number]
            return [(one, versions[one].state, versions[one].error) for one in chosen]

    def tick(self) -> None:
        """Does what is due now; the working thread calls it again and again."""
        now = self._clock()
        config_wait_s = self._flags.model_config_file_poll_wait_seconds
        if config_wait_s > 0 and now >= self._next_config_poll:
            self._next_config_poll = now + config_wait_s
            self._poll_config()
        with self._lock:
            due = self._next_poll is not None and now >= self._next_poll
            if due:
                wait_s = self._flags.file_system_poll_wait_seconds
                self._next_poll = now + wait_s if wait_s > 0 else None
            models = list(self._models.values()) if due else []
        for model in models:
            try:
                self._poll_versions(model)
            except Exception as error:
                # Whatever it is must not keep the models behind it waiting.
                text = f"{type(error).__name__}: {one_line(str(error))}"
                self._complain(f"model {model.name}", f"{text}; what is loaded stays")
        while not self.stopping.is_set() and self._act():
            pass

    def _work(self) -> None:
        while not self.stopping.wait(_TICK_S):
            try:
                self.tick()
            except Exception:
                # A defect of ours must not freeze what is served in its present state without a
                # word.
                _log.exception("the model manager failed; it continues")

    def _labels(self, model: str) -> dict[str, int]:
        return dict(self._models[model].version_labels) if model in self._models else {}

    def _check_labels(self, model: ModelConfig) -> None:
        for label, number in model.version_labels.items():
            version = self._versions.get(model.name, {}).get(number)
            if version is not None and version.state == State.AVAILABLE:
                continue
            # Even where unavailable versions are allowed, an existing label does not move to one.
            if (
                self._labels(model.name).get(label, number) != number
                or not self._flags.allow_version_labels_for_unavailable_models
            ):
                raise failed_precondition(
                    f"Request to assign label to version {number} of model {model.name}, "
                    "which is not currently available for inference"
                )

    def _poll_config(self) -> None:
        try:
            self.apply(self._read_config())
            self._complain("configuration", "")
        except StatusError as error:
            self._complain("configuration", f"the new configuration is not taken over: {error}")

    def _poll_versions(self, model: ModelConfig) -> None:
        name: str = model.name
        try:
            versions = scan(model.base_path)
        except StatusError as error:
            self._complain(f"model {name}", f"{error}; what is loaded stays")
            with self._lock:
                self._looked_at.add(name)
            return
        chosen = aspired(model, versions)
        missing = sorted(set(model.model_version_policy.specific.versions) - set(chosen))
        which = f"version {missing}" if missing else "version"
        complaint = "" if chosen and not missing else f"no {which} under {model.base_path}"
        self._complain(f"model {name}", complaint)
        with self._lock:
            # Unless a new configuration came while the files were looked at.
            if self._models.get(name) is model:
                retry = self._flags.enable_reload_servables_with_error
                retry_before = self._clock() if retry else float("-inf")
                aspire(self._versions.setdefault(name, {}), name, chosen, retry_before)
                self._looked_at.add(name)

    def _complain(self, about: str, text: str) -> None:
        """Logs a warning when it is new, not at every look; an empty text ends it."""
        if text and self._complaints.get(about) != text:
            _log.warning("%s: %s", about, text)
        self._complaints[about] = text

    def _act(self) -> bool:
        """Unloads or loads one version, if one is to be; returns whether."""
        with self._lock:
            # A version that is given up while it waits for its next attempt has ended.
            for version in self._all_versions():
                if not version.aspired and version.state in (State.START, State.LOADING):
                    version.state = State.END
            by_model = [
                next_action(list(versions.values()), self._clock())
                for versions in self._versions.values()
            ]
            # Unloading frees memory, so it comes before loading.
            due = sorted((one for one in by_model if one is not None), key=lambda one: one.aspired)
            if not due:
                return False
            due[0].state = State.LOADING if due[0].aspired else State.UNLOADING
        if due[0].state == State.UNLOADING:
            self._close_if_idle(due[0])
        else:
            self._attempt(due[0])
        return True

    def _attempt(self, version: Version) -> None:
        version.attempts += 1
        _log.info("Loading servable version %s", version)
        try:
            servable = self._load(version.number, version.path)
        except Exception as failure:
            error = failure
            if not isinstance(error, StatusError):
                _log.exception("Servable %s cannot be loaded, for an unexpected reason", version)
                text = f"{type(error).__name__}: {one_line(str(error))}"
                error = internal(text)
            last = version.attempts > self._flags.max_num_load_retries
            with self._lock:
                version.error = error
                version.retry_at = self._clock() + self._flags.load_retry_interval_micros / 1e6
                version.state = State.END if last else State.LOADING
            _log.error(
                "Servable %s cannot be loaded: %s%s",
                version,
                error,
                "" if last else "; trying again later",
            )
            return
        with self._lock:
            version.error, version.servable, version.state = None, servable, State.AVAILABLE
        _log.info("Successfully loaded servable version %s", version)

    def _close_if_idle(self, version: Version) -> None:
        """Closes a version that is being unloaded, once the last request has given it back."""
        with self._lock:
            if version.state != State.UNLOADING or version.handles or version.servable is None:
                return
            servable, version.servable = version.servable, None
        servable.close()
        with self._lock:
            version.state = State.END
        _log.info("Done unloading servable version %s", version)

    def _find(self, model: str, number: int | None, label: str) -> Version:
        if label:
            labels = self._labels(model)
            if label not in labels:
                raise StatusError(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"Unrecognized servable version label: {label}",
                )
            number = labels[label]
        versions = self._versions.get(model, {}).values()
        loaded = [
            version
            for version in versions
            if version.state == State.AVAILABLE and number in (None, version.number)
        ]
        if not loaded:
            wanted = f"Latest({model})" if number is None else f"Specific({model}, {number})"
            raise not_found(f"Servable not found for request: {wanted}")
        return max(loaded, key=lambda one: one.number)

    def _all_versions(self) -> list[Version]:
        return [version for versions in self._versions.values() for version in versions.values()]

"""Takes models.config, and a server that runs on it, from one version to another while requests
come in.

TensorFlow Serving refuses a label on a version that is not loaded, and fails requests to one that
is gone. So:

1. the new version is listed beside the old one, labels as before; wait until it is AVAILABLE;
2. the label moves: from here on requests by label reach the new version;
3. the old version is listed no longer, unless another label names it.

models.config comes first each time, then the server: it is sent the configuration, or, where it
refuses that (`--allow_reload=false`), it is waited for until it has read the file by itself. Each
content of the file is one that a server can start on, or take over; a kill in between leaves what
the next promote or rollback fixes.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Self

import grpc

from serving.client import answers
from serving.client.channel import Tls, Token, open_channel
from serving.client.errors import (
    ClientError,
    InvalidRequest,
    ModelNotFound,
    from_rpc_error,
    one_line,
)
from serving.config import models_config
from serving.config.models_config import ModelServerConfig
from serving.protos import message
from serving.store import ModelStore
from serving.store.state import State
from whisker_ml.contract import STABLE_LABEL
from whisker_ml.errors import StorageError, WhiskerError

logger = logging.getLogger(__name__)

# What a running server of TensorFlow Serving's kind has loaded under which labels, and how its
# configuration moves.

LOADING, AVAILABLE, END = "LOADING", "AVAILABLE", "END"

# Of a question about what is loaded, which a server answers at once.
_QUESTION_S = 10.0
_UNKNOWN_LABEL = "Unrecognized servable version label"
_RELOAD = "ModelService/HandleReloadConfigRequest"


@dataclass(frozen=True)
class VersionStatus:
    """What a server says of a version.

    Attributes:
        state: START, LOADING, AVAILABLE, UNLOADING or END.
        error: why it could not be loaded, in the server's words on one line; empty where nothing is
            wrong.
    """

    state: str
    error: str


class RunningServer:
    """A server that is to follow a models.config; use it in a `with` block.

    Args:
        address: ``host:port`` of its gRPC port. A name of several servers would reach one of them
            only.
        tls: how to check and encrypt the connection; None: plaintext.
        token: a bearer token for every call.

    Raises:
        InvalidRequest: as `open_channel` says.
    """

    def __init__(self, address: str, *, tls: Tls | None = None, token: Token | None = None) -> None:
        self.address = address
        self._channel = open_channel(address, tls=tls, token=token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._channel.close()

    def versions(self, model_name: str) -> dict[int, VersionStatus]:
        """Lists every version that the server has had of a model; nothing where it does not know
        the model.

        Raises:
            ClientError: it gives no answer.
        """
        try:
            response = self._ask("ModelService/GetModelStatus", model_spec={"name": model_name})
        except ModelNotFound:
            return {}
        return {
            entry.version: VersionStatus(
                answers.state_of(entry),
                one_line(entry.status.error_message) if entry.status.error_code else "",
            )
            for entry in response.model_version_status
        }

    def labelled(self, model_name: str, label: str, otherwise: int | None) -> int | None:
        """Gives the version that has a label.

        Args:
            model_name: a model that the server knows.
            label: any.
            otherwise: what to give where the server has the label on a version that is not loaded,
                as it then does not say which.

        Returns:
            The version; None where the server does not know the label.

        Raises:
            ClientError: it gives no answer.
        """
        # Of all questions that take a label, the one that runs no model. GetModelStatus ignores
        # labels.
        try:
            response = self._ask(
                "PredictionService/GetModelMetadata",
                model_spec={"name": model_name, "version_label": label},
                metadata_field=[answers.SIGNATURES],
            )
        except ModelNotFound as error:
            # Without the model there is no label of it.
            return None if error.models else otherwise
        except InvalidRequest as error:
            if _UNKNOWN_LABEL in error.details:
                return None
            raise
        with answers.expected(self.address):
            return answers.version_of(response)

    def reload(self, config: ModelServerConfig, timeout_s: float) -> grpc.Future:
        """Sends a configuration, which replaces the server's own.

        Args:
            config: with a model_config_list of every model that is to be served.
            timeout_s: how long the server may take to answer.

        Returns:
            The call, which the server answers once every model with a new name is loaded; for
            `answer`. What it has taken over by the time that the call is cancelled stays.
        """
        request = message("tensorflow.serving.ReloadConfigRequest")(config=config)
        # A list without models is one too, where the configuration is empty.
        request.config.model_config_list.SetInParent()
        return self._begin(_RELOAD, request, timeout_s)

    def refusal(self) -> str:
        """Gives the server's words where it lets nobody replace its configuration, else nothing.

        Raises:
            ClientError: it gives no answer.
        """
        nothing = message("tensorflow.serving.ReloadConfigRequest")()
        try:
            self.answer(self._begin(_RELOAD, nothing, _QUESTION_S))
        except ClientError as error:
            if error.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED):
                return f"{error.code.name}: {error.details}"
            # It takes a list of models, and this is none.
            if not isinstance(error, InvalidRequest):
                raise
        return ""

    def answer(self, call: grpc.Future) -> bytes:
        """Waits for the answer to a call.

        Raises:
            ClientError: there is none, or the server has refused what it was sent.
        """
        try:
            answer: bytes = call.result()
            return answer
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.address) from error

    def _ask(self, path: str, **fields: Any) -> Any:
        name = path.partition("/")[2]
        request = message(f"tensorflow.serving.{name}Request")(**fields)
        data = self.answer(self._begin(path, request, _QUESTION_S))
        with answers.expected(self.address):
            return answers.parse(f"{name}Response", data)

    def _begin(self, path: str, request: Any, timeout_s: float) -> grpc.Future:
        method = self._channel.unary_unary(f"/tensorflow.serving.{path}")
        return method.future(request.SerializeToString(), timeout=timeout_s)


# To take over a configuration without a new model, which a server answers at once.
_RELOAD_S = 30.0
# After which a version that is to be loaded no longer shows what was the matter with it before; our
# server takes 0.1 s.
_SETTLED_S = 2.0
_POLL_S = 0.05
_UNKNOWN = VersionStatus("unknown", "")


class RolloutError(StorageError):
    """A running server could not be taken to another version."""


def promote(
    store: ModelStore,
    version: int,
    label: str,
    server: RunningServer,
    timeout_s: float,
) -> float:
    """Puts a label on a version, in models.config and on a running server.

    Args:
        store: of the model.
        version: one of its versions.
        label: `stable` makes the version live; another one has it loaded beside what is live.
        server: that runs on the store's models.config.
        timeout_s: how long the server may take to load the version; where it has to read
            models.config by itself, for each step.

    Returns:
        Seconds until every request by that label reached the version.

    Raises:
        VersionMissingError: the store does not have it.
        RolloutError: the server does not run on this models.config, does not follow it, or does not
            load the version; it and the file are as they were.
        WhiskerError: the store cannot be written, or the server gives no answer.
    """
    store.require(version)
    return _Rollout(store, server, version, label, timeout_s).run()


def rollback(store: ModelStore, server: RunningServer, timeout_s: float) -> tuple[int, float]:
    """Makes the version live that was live before the present one; otherwise as `promote`.

    Returns:
        The version, and seconds until every request by the label `stable` reached it.

    Raises:
        VersionMissingError: no version that still exists was live before.
        RolloutError: as for `promote`; or another version has gone live meanwhile.
    """
    version = store.state().require_previous()
    return version, _Rollout(store, server, version, STABLE_LABEL, timeout_s, back=True).run()


@dataclass
class _Rollout:
    """One way from what is, to a label on a version.

    What the server is sent is models.config, but for labels that somebody moved in the file alone:
    the server keeps its own, as it would refuse to move them to versions that it has not loaded.
    Where it reads the file itself, our label goes back there first, for the same reason.
    """

    store: ModelStore
    server: RunningServer
    version: int
    label: str
    timeout_s: float
    back: bool = False

    def __post_init__(self) -> None:
        self._name = self.store.model_name
        self._what = f"version {self.version} of {self._name}"
        original = self.store.config()
        self._entry = models_config.entry(original, self._name)
        self._before = self._entry.version_labels.get(self.label)
        self._statuses = self.server.versions(self._name)
        # Of each model, the labels that the server has.
        self._labels: dict[str, dict[str, int]] = {self._name: {}} | {
            model.name: {
                label: loaded
                for label, number in model.version_labels.items()
                if (loaded := self.server.labelled(model.name, label, number)) is not None
            }
            for model in original.model_config_list.config
        }
        # Why the server has to read the file by itself; empty: it is sent what is there.
        self._refusal = self.server.refusal()
        # What the label moves from.
        self._from = self._labels[self._name].get(self.label) if self._refusal else self._before

    def run(self) -> float:
        """Goes the whole way, or back to the start."""
        start = time.monotonic()
        # Without one that is loaded only because it has not been unloaded yet, or that the file
        # lists and nobody loads.
        serving = {number for number, status in self._statuses.items() if status.state == AVAILABLE}
        self._refuse_another_config(serving)
        labels = self._labels[self._name]
        listed = {*models_config.listed(self._entry)}
        serving = (serving & listed if listed else serving) | {*labels.values()}
        if self._refusal:
            logger.warning(
                "%s does not accept a configuration (%s): it must read models.config by itself",
                self.server.address,
                self._refusal,
            )
            known = listed or not self._entry.name
            if known and self.version not in {*listed, *labels.values()}:
                # The server may not have read yet that it goes, and would unload it under our
                # hands.
                self._wait("unloaded", lambda: self._status().state in (END, _UNKNOWN.state))
        self._edit(self._list_new)
        try:
            self._load({*serving, self.version})
            self._labels[self._name] = {**labels, self.label: self.version}
            self._edit(self._move_label)
            self._reload({*serving, self.version})
            self._wait(
                f"moved the label {self.label} to",
                lambda: self.server.labelled(self._name, self.label, None) == self.version,
            )
        except BaseException as error:
            self._labels[self._name] = labels
            outcome = self._undo(serving)
            if isinstance(error, WhiskerError):
                raise RolloutError(f"{error}; {outcome}") from error
            logger.warning("%s", outcome)
            raise
        seconds = time.monotonic() - start
        try:
            self._edit(lambda model, _: _unlist(model, {self._before, self._from}))
            self._reload(None)
        except WhiskerError as error:
            raise RolloutError(
                f"{self._what} is {self.label} now, but what it replaces may stay loaded until the"
                f" next promote: {error}"
            ) from error
        return seconds

    def _refuse_another_config(self, serving: set[int]) -> None:
        """Refuses a server that runs on something else, as the reload would take from it what it
        serves.
        """
        expected = STABLE_LABEL in self._entry.version_labels if self._entry.name else serving
        if not expected or STABLE_LABEL in self._labels[self._name]:
            return
        what = f"serves {self._name} without the label {STABLE_LABEL}"
        if not serving:
            what = f"does not serve {self._name}"
        raise RolloutError(
            f"{self.server.address} {what}, so it does not run on {self.store.config_path}:"
            f" nothing was changed; start it with --model_config_file={self.store.config_path}"
            " --allow_version_labels_for_unavailable_models=true"
        )

    def _list_new(self, model: Any, state: State) -> None:
        self._refuse_overtaken(state, self._before)
        labels, listed = model.version_labels, models_config.listed(model)
        if self._refusal:
            labels.pop(self.label, None)
            if self._from is not None:
                labels[self.label] = self._from
        if STABLE_LABEL in labels:
            # What a promote or a rollback that was killed has left there: above the live version,
            # or live before it.
            above = {number for number in listed if number > labels[STABLE_LABEL]}
            _unlist(model, {*above, state.previous})
        listed[:] = sorted({*listed, *labels.values(), self.version})

    def _move_label(self, model: Any, state: State) -> None:
        self._refuse_overtaken(state, self._from)
        model.version_labels[self.label] = self.version

    def _refuse_overtaken(self, state: State, live: int | None) -> None:
        """Whoever goes back, goes back from what was live when this was decided."""
        if self.back and state.live != live:
            raise RolloutError(
                f"version {state.live} of {self._name} went live in the meantime: check"
                " what is live, then roll back again"
            )

    def _edit(self, change: Callable[[Any, State], None]) -> None:
        """Changes our model in models.config, where others may have changed theirs meanwhile."""

        def changed(state: State) -> ModelServerConfig:
            copy, model = models_config.edited(state.config, self._name, self.store.base_path)
            change(model, state)
            return copy

        self.store.edit_config(changed, back=self.back)

    def _send(self, versions: set[int] | None, timeout_s: float) -> Any:
        """Sends the server what it is told of models.config as it is now, unless it refuses that.

        Args:
            versions: of our model to load; None for those that the file lists.
            timeout_s: how long the server may take to answer.

        Returns:
            The call.
        """
        if self._refusal:
            done: Future[None] = Future()
            done.set_result(None)
            return done
        config = self.store.config()
        for model in config.model_config_list.config:
            listed = models_config.listed(model)
            for label, number in self._labels.get(model.name, {}).items():
                if label in model.version_labels:
                    model.version_labels[label] = number
                    if listed and number not in listed:
                        listed.append(number)
            if model.name == self._name and versions:
                listed[:] = sorted(versions)
        return self.server.reload(config, timeout_s)

    def _reload(self, versions: set[int] | None) -> None:
        self.server.answer(self._send(versions, _RELOAD_S))

    def _load(self, versions: set[int]) -> None:
        """Waits until the server has loaded the new version beside the others."""
        start = time.monotonic()
        reload = self._send(versions, self.timeout_s)
        # Of an attempt before this one; the server goes on saying so until it looks at the version
        # again, and where it has given up for good nothing else tells that from a new failure.
        old_error = self._statuses.get(self.version, _UNKNOWN).error

        def loaded() -> bool:
            nonlocal old_error
            # In this order: what the server says of the version is then newer than its answer.
            taken_over = reload.done()
            status = self._status()
            if not status.error or (status.state != END and time.monotonic() - start > _SETTLED_S):
                old_error = ""
            if status.error != old_error:
                raise RolloutError(
                    f"{self.server.address} cannot load {self._what}: {status.error}"
                )
            if taken_over:
                self.server.answer(reload)
            return taken_over and status.state == AVAILABLE

        try:
            self._wait("loaded", loaded)
        finally:
            reload.cancel()

    def _wait(self, done: str, came: Callable[[], bool]) -> None:
        """Waits until the server has done something with the version; says so where that takes
        until it looks at the file.

        Raises:
            RolloutError: it has not in time.
        """
        what, address = f"{done} {self._what}", self.server.address
        start, waiting = time.monotonic(), False
        while not came():
            if time.monotonic() - start >= self.timeout_s:
                status = self._status()
                reason = f" ({status.error})" if status.error else ""
                raise RolloutError(
                    f"{address} has not {what} after {self.timeout_s:g} s, it is"
                    f" {status.state}{reason}: see its log, or give more time with --timeout_s"
                    f"{self._what_a_reader_needs() if self._refusal else ''}"
                )
            if self._refusal and not waiting:
                logger.warning("waiting until %s has %s", address, what)
                waiting = True
            time.sleep(_POLL_S)
        if waiting:
            logger.warning("%s has %s", address, what)

    def _what_a_reader_needs(self) -> str:
        """Says what may keep a server from following the file that it is to read by itself."""
        others = [
            f"{label} of {model.name} on version {number}"
            for model in self.store.config().model_config_list.config
            for label, number in model.version_labels.items()
            if (model.name, label, number) != (self._name, self.label, self.version)
            and self.server.labelled(model.name, label, None) != number
        ]
        refused = (
            f"; models.config has {', '.join(others)}, which the server has not loaded, so it"
            " refuses the file: put the label back, or promote that version with --server first"
        )
        return (
            f"{refused if others else ''}; if it does not poll models.config, start it with"
            " --model_config_file_poll_wait_seconds=N, or with --allow_reload"
        )

    def _status(self) -> VersionStatus:
        return self.server.versions(self._name).get(self.version, _UNKNOWN)

    def _undo(self, serving: set[int]) -> str:
        """Takes file and server back to where they were; says what came of it."""
        try:
            # The other way than the way that failed.
            self.store.edit_config(self._as_it_was, back=not self.back)
            if self._refusal:
                return "models.config is unchanged"
            self._reload(serving)
            end = time.monotonic() + _SETTLED_S
            while self._status().state == LOADING and time.monotonic() < end:
                time.sleep(_POLL_S)
        except WhiskerError as error:
            return f"undoing the change failed too: {error}"
        return "models.config and the server are as before"

    def _as_it_was(self, state: State) -> ModelServerConfig:
        """Restores our model, but for labels that others have moved and versions that are gone."""
        changed, model = models_config.edited(state.config, self._name, self.store.base_path)
        moved = dict(model.version_labels).items() - {
            (self.label, self.version),
            (self.label, self._from),
        }
        models = changed.model_config_list.config
        models.remove(model)
        if self._entry.name:
            models.append(self._entry)
        for label, number in moved:
            changed = models_config.with_live(
                changed, self._name, self.store.base_path, number, label
            )
        gone = models_config.named(changed, self._name).difference(state.versions)
        return models_config.without(changed, self._name, gone)


def _unlist(model: Any, versions: set[int | None]) -> None:
    """Takes versions out of those that are to be loaded, but for those that a label names."""
    listed = models_config.listed(model)
    listed[:] = sorted(set(listed) - (versions - set(model.version_labels.values())))

"""Random changes of a store, one within another, against a model of what it should hold; and random
processes, killed at random.
"""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from serving.config.models_config import named
from serving.store import ModelStore, gcs, open_store
from serving.store.state import VersionMissingError
from serving.store.store import OvertakenError
from whisker_ml.files import is_address

STEPS = [120, pytest.param(10_000, marks=pytest.mark.long)]
QUIET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
# The steps that fail are told as they are: to find fewer takes minutes.
PHASES = [Phase.generate]
LABELS = ("stable", "canary")
# What is done: a verb and its arguments.
Change = tuple[Any, ...]

# A version is the one of that place among those that are there; of 99, there never is one.
places = st.sampled_from([0, 0, 0, 1, 2, 3, 99])
changes = st.sampled_from(
    [
        st.just(("publish",)),
        st.just(("publish",)),
        st.tuples(st.just("promote"), places, st.sampled_from(LABELS)),
        st.tuples(st.just("promote"), places, st.just("stable")),
        st.tuples(st.just("promote over"), places, places | st.just("live") | st.none()),
        st.just(("rollback",)),
        st.tuples(st.just("prune"), st.integers(1, 2)),
        st.tuples(st.just("withdraw"), places),
    ]
).flatmap(lambda each: each)


@dataclass(frozen=True)
class Model:
    """What a store should hold.

    Attributes:
        there: its versions.
        published: how many ever were.
        labels: in models.config.
        before: versions that were live, before the one that is, oldest first.
    """

    there: frozenset[int] = frozenset()
    published: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    before: tuple[int, ...] = ()

    @property
    def previous(self) -> int | None:
        live = self.labels.get("stable")
        past = [version for version in self.before if version in self.there and version != live]
        return past[-1] if past else None

    def named(self, change: Change) -> Change:
        """Gives a change with versions for places."""
        verb, *arguments = change
        if verb == "prune":
            return change
        there = sorted(self.there) or [99]
        versions = (
            there[at % len(there)] if type(at) is int and at < 99 else at for at in arguments
        )
        return verb, *(self.labels.get("stable") if at == "live" else at for at in versions)

    def after(self, change: Change) -> "tuple[Model, Any]":
        """Gives what is there after a change, and what the change returns or raises."""
        verb, *arguments = change
        return getattr(self, verb.replace(" ", "_"))(*arguments)

    def publish(self) -> "tuple[Model, Any]":
        number = self.published + 1
        return replace(self, there=self.there | {number}, published=number), number

    def promote(self, version: int, label: str) -> "tuple[Model, Any]":
        if version not in self.there:
            return self, VersionMissingError
        live, before = self.labels.get("stable"), self.before
        if label == "stable" and version != live:
            before = (*before, *([live] if live else []))
        return replace(self, labels=self.labels | {label: version}, before=before), None

    def promote_over(self, version: int, over: int | None) -> "tuple[Model, Any]":
        if version not in self.there:
            return self, VersionMissingError
        overtaken = over != self.labels.get("stable")
        return (self, OvertakenError) if overtaken else self.promote(version, "stable")

    def rollback(self) -> "tuple[Model, Any]":
        version = self.previous
        if version is None:
            return self, VersionMissingError
        at = len(self.before) - 1 - self.before[::-1].index(version)
        labels = self.labels | {"stable": version}
        return replace(self, labels=labels, before=self.before[:at]), version

    def prune(self, keep: int) -> "tuple[Model, Any]":
        old = set(sorted(self.there)[:-keep]) - {*self.labels.values(), self.previous}
        return replace(self, there=self.there - old), sorted(old)

    def withdraw(self, version: int) -> "tuple[Model, Any]":
        gone = {version} - {*self.labels.values(), self.previous}
        return replace(self, there=self.there - gone), None


def outcome(store: ModelStore, change: Change, export: Path) -> Any:
    """Makes a change; gives what comes of it."""
    match change:
        case ("publish",):
            return store.publish(export).number
        case ("promote", version, label):
            work: Callable[[], Any] = lambda: store.promote(version, label)  # noqa: E731
        case ("promote over", version, over):
            work = lambda: store.promote(version, over=over)  # noqa: E731
        case ("rollback",):
            work = store.rollback
        case ("prune", keep):
            work = lambda: store.prune(keep)  # noqa: E731
        case ("withdraw", version):
            work = lambda: store.withdraw(version)  # noqa: E731
    try:
        return work()
    except (VersionMissingError, OvertakenError) as error:
        return type(error)


@contextmanager
def squeezed(store: ModelStore, at: int, within: Callable[[], None]) -> Iterator[list[str]]:
    """Calls `within` before what a change of the store reads or writes for the time of that number,
    from 0, at which others may come between; gives a list that has an entry for each.
    """
    points: list[str] = []
    held = False

    def before(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if not held:
                points.append(name)
                if len(points) == at + 1:
                    within()
            return call(*arguments, **options)

        return counted

    with pytest.MonkeyPatch.context() as patched:
        if is_address(store.base_path):
            # Every call to the bucket.
            for name in ("read", "write", "list_objects", "delete", "copy_new", "upload_new"):
                patched.setattr(gcs.storage, name, before(name, getattr(gcs.storage, name)))
        else:
            # Others wait for the lock: they come between at what is done before it.
            for name in ("state", "versions", "_claim", "_exclusive", "_write"):
                patched.setattr(store, name, before(name, getattr(store, name)))
            real = store._exclusive

            @contextmanager
            def locked() -> Iterator[None]:
                nonlocal held
                with real():
                    held = True
                    yield
                held = False

            patched.setattr(store, "_exclusive", locked)
        yield points


class StoreMachine(RuleBasedStateMachine):
    """Changes a store, and compares it with the model."""

    steps = 0
    # How many moments a change has at which another may come between, as far as is known.
    points: ClassVar[dict[str, int]] = {}

    def __init__(self, model_dir: str, export: Path) -> None:
        super().__init__()
        self.store, self.other = (open_store(model_dir, "whisker") for _ in range(2))
        self.export = export
        self.model = Model()
        for change in (*3 * [("publish",)], ("promote", 1, "stable"), ("promote", 2, "stable")):
            self.model, expected = self.model.after(change)
            assert outcome(self.store, change, export) == expected

    @rule(change=changes, within=changes | st.none(), at=st.integers(0, 1000))
    def change(self, change: Change, within: Change | None, at: int) -> None:
        """Whatever comes between, it is as if one of the two had come first."""
        StoreMachine.steps += 1
        change, within = self.model.named(change), within and self.model.named(within)
        seen: list[Any] = []
        with squeezed(
            self.store,
            at % self.points.get(change[0], 1) if within else -1,
            lambda: seen.append(outcome(self.other, within, self.export)),
        ) as points:
            result = outcome(self.store, change, self.export)
        if not within:
            self.points[change[0]] = max(len(points), self.points.get(change[0], 1))
        possible = []
        if not seen:
            possible.append((*self.model.after(change), None))
        else:
            first, its = self.model.after(change)
            second, others = first.after(within)
            possible.append((second, its, others))
            first, others = self.model.after(within)
            second, its = first.after(change)
            possible.append((second, its, others))
        for expected_model, *expected in possible:
            model = expected_model
            pruned = bool(seen) and "prune" in (change[0], within[0])
            if pruned:
                # What the other change frees may stay, and two prunes may name the same version.
                left = set(self.store.versions()) & self.model.there
                model = replace(model, there=model.there | left)
            told = pruned or expected == [result, *(seen or [None])]
            if told and self.seen() == self.shown(model):
                self.model = model
                return
        raise AssertionError(f"{result} and {seen}, {self.seen()}: expected one of {possible}")

    @invariant()
    def is_as_the_model(self) -> None:
        assert self.seen() == self.shown(self.model)
        assert named(self.store.config(), "whisker") <= set(self.store.versions())

    def seen(self) -> Any:
        store = self.store
        return store.versions(), store.labels(), store.previous()

    @staticmethod
    def shown(model: Model) -> Any:
        return sorted(model.there), model.labels, model.previous


def share(steps: int, model_dir: str) -> int:
    """Of the steps for both kinds of store; a change in a bucket takes some twenty calls."""
    return steps // 5 if is_address(model_dir) else steps * 4 // 5


@pytest.mark.parametrize("steps", STEPS)
def test_changes_within_changes_are_as_if_one_had_come_first(
    steps: int, model_dir: str, saved_model: Path
) -> None:
    steps = share(steps, model_dir)
    StoreMachine.steps = 0
    StoreMachine.points.clear()
    number = 0

    def machine() -> StoreMachine:
        nonlocal number
        number += 1
        return StoreMachine(f"{model_dir}/{number}", saved_model)

    while StoreMachine.steps < steps:
        left = steps - StoreMachine.steps
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=max(1, left // 30), stateful_step_count=30, phases=PHASES, **QUIET
            ),
        )


@pytest.mark.parametrize("steps", STEPS)
def test_processes_killed_at_random_never_leave_a_models_config_that_names_what_is_gone(
    steps: int, model_dir: str, saved_model: Path
) -> None:
    steps = share(steps, model_dir)
    seed = str(random.SystemRandom().getrandbits(32))
    answer = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.serving.store.racing",
            model_dir,
            saved_model,
            str(steps),
            seed,
        ],
        timeout=120 + steps,
        check=False,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, f"{steps} steps, seed {seed}: {answer.stderr}"

"""The processes that train one model together: who they are, by TF_CONFIG, and how they find one
another.

TensorFlow waits for its cluster inside one C++ call, an hour long, in which it holds the
interpreter's lock and takes SIGTERM for itself: no signal, no thread and no deadline of ours is
heard there. So the workers meet in plain Python before it starts, on the chief's own port, and
TensorFlow starts when all of them are known to be there.
"""

import json
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from trainer.errors import ConfigError, WorkerLostError, WorkersError

# How much later than the first a machine may start: they pull their images at different speeds.
_START_S = 600.0
# The longest that one worker may keep the others waiting while training: the chief judges and saves
# meanwhile.
_STALL_S = 1800.0

_RETRY_S = 0.2
# A worker says who it is as soon as it is connected. Connections that send nothing are ignored.
_INTRODUCTION_S = 5.0
# The settings of a run are about a kilobyte.
_MOST_BYTES = 2**16
_WELCOME = "welcome"
_REFUSED = "refused: "
_START = "start the same command on every machine that TF_CONFIG names"


@dataclass(frozen=True)
class Cluster:
    """The workers of a run; without an address there is this process alone.

    Attributes:
        workers: ``host:port`` of every worker, the chief first.
        index: which of them this process is.
        start_s: seconds within which all have to be there.
        stall_s: seconds after which a worker that keeps the others waiting in training counts as
            lost.
    """

    workers: tuple[str, ...] = ()
    index: int = 0
    start_s: float = _START_S
    stall_s: float = _STALL_S

    @property
    def count(self) -> int:
        """How many workers there are."""
        return max(len(self.workers), 1)

    @property
    def is_chief(self) -> bool:
        """Tells whether this process writes what the run leaves behind."""
        return self.index == 0


ALONE = Cluster()


def parse(tf_config: str | None) -> Cluster:
    """Reads what the environment variable TF_CONFIG says; one task, or none, is a process alone.

    Raises:
        ConfigError: it is no JSON, or does not say which of its workers this is.
    """
    if not tf_config:
        return ALONE
    expected = (
        'expected {"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}'
    )
    try:
        content = json.loads(tf_config)
        # Parameter servers are no workers: Vertex AI lists a reduction server as one.
        workers = {
            (job, number): address
            for job in ("chief", "worker")
            for number, address in enumerate(content.get("cluster", {}).get(job, []))
        }
        if len(workers) < 2:
            return ALONE
        task = (content["task"]["type"], int(content["task"]["index"]))
        for address in workers.values():
            _host_and_port(address)
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"TF_CONFIG: cannot be read ({error}); {expected}") from error
    except KeyError as error:
        raise ConfigError(f"TF_CONFIG: {error.args[0]} is missing; {expected}") from error
    if task not in workers:
        raise ConfigError(
            f"TF_CONFIG: this process is {task[0]} {task[1]}, which is not among its {len(workers)}"
            f" workers ({', '.join(f'{job} {number}' for job, number in workers)})"
        )
    return Cluster(tuple(workers.values()), list(workers).index(task))


def meet(cluster: Cluster, settings: Mapping[str, Any]) -> None:
    """Waits until every worker is there.

    Args:
        cluster: who is to come.
        settings: by name; they must be the same everywhere.

    Raises:
        WorkersError: somebody came with other settings.
        WorkerLostError: somebody did not come in time.
    """
    if cluster.is_chief:
        _receive(cluster, settings)
    else:
        _report(cluster, settings)


def _receive(cluster: Cluster, settings: Mapping[str, Any]) -> None:
    deadline = time.monotonic() + cluster.start_s
    address = cluster.workers[0]
    arrived: dict[int, socket.socket] = {}
    refusal = ""
    try:
        # On every interface, as TensorFlow's own server afterwards: the chief's name may be that of
        # a load balancer.
        with socket.create_server(("", _host_and_port(address)[1])) as server:
            while len(arrived) < cluster.count - 1:
                server.settimeout(max(deadline - time.monotonic(), 0.001))
                connection, _ = server.accept()
                try:
                    message = json.loads(_read(connection, _INTRODUCTION_S))
                    index = range(1, cluster.count).index(message["worker"]) + 1
                    theirs = dict(message["settings"])
                except (OSError, ValueError, LookupError, TypeError, RecursionError):
                    # A health check, or a worker that was ended while it said who it is.
                    connection.close()
                    continue
                arrived[index] = connection
                refusal = refusal or _difference(index, settings, theirs)
    except TimeoutError as error:
        missing = [
            f"{index} ({cluster.workers[index]})"
            for index in range(1, cluster.count)
            if index not in arrived
        ]
        refusal = (
            f"worker {', '.join(missing)} did not connect within {cluster.start_s:g} s; {_START}"
        )
        raise WorkerLostError(refusal) from error
    except OSError as error:
        raise WorkersError(
            f"{address}: the chief cannot listen there ({error.strerror}); give a free port"
        ) from error
    finally:
        for connection in arrived.values():
            with connection:
                _send(connection, _REFUSED + refusal if refusal else _WELCOME)
    if refusal:
        raise WorkersError(refusal)


def _report(cluster: Cluster, settings: Mapping[str, Any]) -> None:
    deadline = time.monotonic() + cluster.start_s
    chief = _host_and_port(cluster.workers[0])
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise WorkerLostError(
                f"the chief, worker 0 ({cluster.workers[0]}), did not answer within"
                f" {cluster.start_s:g} s; {_START}"
            )
        answer = ""
        with suppress(OSError), socket.create_connection(chief, timeout=left) as connection:
            _send(connection, json.dumps({"worker": cluster.index, "settings": dict(settings)}))
            # A little longer than the chief waits: it knows who is missing.
            answer = _read(connection, deadline - time.monotonic() + _INTRODUCTION_S)
        if answer == _WELCOME:
            return
        if answer.startswith(_REFUSED):
            # The chief's own exit code says whether it helps to begin again.
            raise WorkerLostError(answer.removeprefix(_REFUSED))
        # Nobody is there yet; or TensorFlow's server of a chief that this worker was lost to, and
        # that has not noticed.
        time.sleep(min(_RETRY_S, left))


def _difference(index: int, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    different = [
        f"{name} is {ours.get(name)} at the chief and {theirs.get(name)} there"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if not different:
        return ""
    return f"worker {index} has other settings ({'; '.join(different)}); give every worker the same"


def _send(connection: socket.socket, line: str) -> None:
    # One that is gone already is reported by whoever waits for it.
    with suppress(OSError):
        connection.sendall(f"{line}\n".encode())


def _read(connection: socket.socket, seconds: float) -> str:
    """One line, or what there is of it when the other side leaves."""
    connection.settimeout(max(seconds, 0.001))
    with connection.makefile("rb") as lines:
        return lines.readline(_MOST_BYTES).decode(errors="replace").strip()


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{address!r} is no host:port")
    return host.strip("[]"), int(port)

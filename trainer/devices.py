"""Which devices a run uses, the strategy that spreads a batch over them, and what the workers of a
run agree on between two calls.
"""

import logging
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

# TensorFlow tells nowhere else whether it took oneDNN's kernels (TF_ENABLE_ONEDNN_OPTS, or by its
# own choice).
from tensorflow.python.util import _pywrap_util_port

from trainer.cluster import ALONE, Cluster
from trainer.config import Config
from trainer.errors import DeviceError, WorkerLostError, WorkersError
from trainer.variants import VARIANTS

logger = logging.getLogger(__name__)

# nvidia-smi answers at once or hangs on a broken driver.
_NVIDIA_SMI_TIMEOUT_S = 10.0

# A split GPU must be told how much memory each part gets. Splitting is for looking at replicas, not
# for speed.
_LOGICAL_GPU_MEMORY_MB = 1024

# From this compute capability on NVIDIA's GPUs have units for bfloat16 (Ampere). Older ones have
# them for float16 only, whose gradients need loss scaling.
_BFLOAT16_CAPABILITY = (8, 0)

# The wheel's PTX is of version 8.5, which this driver is the first to read
# (docs.nvidia.com/cuda/parallel-thread-execution, release history, read on 2026-11-27).
_PTX_DRIVER = 555

# Where Linux lists what its processors can do.
_PROCESSORS = Path("/proc/cpuinfo")

# How TensorFlow says that a worker is gone: no more heartbeats, a broken connection, or a sum that
# took too long.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class Part(NamedTuple):
    """Which part of every batch one of several workers trains on: that of its replicas.

    Attributes:
        first: number of its first replica.
        end: number after its last.
        replicas: of all workers; the batch size is a multiple of it.
    """

    first: int
    end: int
    replicas: int


class Workers:
    """The processes that train together under one strategy.

    Everything that they agree on rests on one sum over all of them: each writes its numbers into a
    row that is its own. A process alone sums nothing.

    Args:
        strategy: of this process; MultiWorkerMirroredStrategy where there are several.
        cluster: who they are.
    """

    def __init__(self, strategy: tf.distribute.Strategy, cluster: Cluster = ALONE) -> None:
        self._strategy = strategy
        self._cluster = cluster
        self._replicas = strategy.num_replicas_in_sync // self._cluster.count
        self._function = tf.function(self._add_up)

    @property
    def is_chief(self) -> bool:
        """Tells whether this process judges and writes."""
        return self._cluster.is_chief

    @property
    def parts(self) -> int:
        """How many elements make one step: one of several workers feeds each replica by itself."""
        return self._replicas if self._cluster.count > 1 else 1

    @property
    def part(self) -> Part | None:
        """Which part of every batch is this worker's; None: all of it."""
        if self._cluster.count == 1:
            return None
        first = self._cluster.index * self._replicas
        return Part(first, first + self._replicas, self._strategy.num_replicas_in_sync)

    def distribute(self, batches: tf.data.Dataset) -> "tf.distribute.DistributedDataset":
        """Spreads batches over the replicas of this process."""
        if self._cluster.count == 1:
            return self._strategy.experimental_distribute_dataset(batches)
        return self._strategy.distribute_datasets_from_function(lambda _: batches)

    def gather(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Shows everybody everybody's numbers: float64 [workers, n]. All workers must call it."""
        if self._cluster.count == 1:
            return np.array([values], np.float64)
        table = np.zeros((self._cluster.count, len(values)))
        table[self._cluster.index] = values
        return self._sum(tf.constant(table)).numpy()

    def chiefs(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Shows everybody the chief's numbers: float64 [n]. All workers must call it."""
        return self.gather(values)[0]

    def chiefs_text(self, text: str) -> str:
        """Gives everybody the chief's text. All workers must call it."""
        encoded = np.frombuffer(text.encode(), np.uint8)
        length = int(self.chiefs([len(encoded)])[0])
        return self.chiefs(np.resize(encoded, length)).astype(np.uint8).tobytes().decode()

    def require_same(self, what: str, digest: str) -> None:
        """Makes sure that all workers have the same.

        Args:
            what: names it.
            digest: of it, in hexadecimal.

        Raises:
            WorkersError: the chief's differs.
        """
        if digest != (chiefs := self.chiefs_text(digest)):
            raise WorkersError(
                f"worker {self._cluster.index} ({self._cluster.workers[self._cluster.index]}):"
                f" {what} differ from the chief's (here {digest[:12]}, there {chiefs[:12]}); give"
                " every"
                " worker the same"
            )

    def take_from_chief(self, variables: Sequence[keras.Variable]) -> None:
        """Gives variables the chief's values everywhere, bit by bit. All workers must call it."""
        if self._cluster.count == 1:
            return
        for variable in variables:
            value = variable.value
            # Sums are made of few types; random streams have one that is not among them.
            wide = value.dtype if value.dtype.is_floating else tf.int64
            cast = tf.cast(value, wide)
            value.assign(
                tf.cast(self._sum(cast if self.is_chief else tf.zeros_like(cast)), value.dtype)
            )

    def leave_together(self) -> None:
        """Waits for the chief to be done. A worker that had left before could not begin again
        beside a chief that has to. All workers must call it.
        """
        # The chief has done everything, whatever becomes of the others.
        with suppress(*(_LOST if self.is_chief else ())):
            self.gather([0.0])

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Inside, the loss of another worker is one clear error.

        Raises:
            WorkerLostError: another worker is gone, or keeps the others waiting.
        """
        try:
            yield
        except _LOST as error:
            if self._cluster.count == 1:
                raise
            raise WorkerLostError(
                f"{self._lost(error.message)}; its own log says why; give the same command again"
                " everywhere to resume from the last checkpoint"
            ) from error

    def _lost(self, message: str) -> str:
        if "timed out" in message:
            return f"another worker has kept this one waiting for {self._cluster.stall_s:g} s"
        lost = set(map(int, re.findall(r"task:(\d+)", message))) - {self._cluster.index}
        names = [f"{index} ({self._cluster.workers[index]})" for index in sorted(lost)]
        return (
            f"worker {' or '.join(names) or 'beside this one'} has ended, or cannot be reached any"
            " more"
        )

    def _sum(self, values: tf.Tensor) -> tf.Tensor:
        # By shape, each traced once: a collective operation is tied to the shape that it began
        # with.
        return self._function.get_concrete_function(values)(values)

    def _add_up(self, values: tf.Tensor) -> tf.Tensor:
        """Sum over all workers, whatever their number of replicas."""

        def add() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            # One replica speaks for its worker.
            speaks = context.replica_id_in_sync_group % self._replicas == 0
            return context.all_reduce(
                tf.distribute.ReduceOp.SUM, tf.where(speaks, values, tf.zeros_like(values))
            )

        return self._strategy.experimental_local_results(self._strategy.run(add))[0]


@dataclass(frozen=True)
class Devices:
    """The devices of a run.

    Attributes:
        strategy: spreads a batch over them; TensorFlow's default strategy where there is one device
            only, because MirroredStrategy on one costs speed and gains nothing.
        kind: ``GPU`` or ``CPU``.
        names: one per replica, such as ``CPU:0``, or ``worker 1 CPU:0`` where there are several
            workers.
        precision: Keras' name of what is computed in: ``float32`` or ``mixed_bfloat16``.
        workers: the processes that share the work.
    """

    strategy: tf.distribute.Strategy
    kind: str
    names: tuple[str, ...]
    precision: str
    workers: Workers

    @property
    def replicas(self) -> int:
        """How many copies of the model work at a time."""
        return len(self.names)

    @property
    def kernels(self) -> str:
        """Whose kernels compute: ``oneDNN``, ``TensorFlow`` or ``cuDNN``."""
        if self.kind == "GPU":
            return "cuDNN"
        return "oneDNN" if _pywrap_util_port.IsMklEnabled() else "TensorFlow"

    @property
    def is_single(self) -> bool:
        """Tells whether there is one device, and so no strategy."""
        return self.strategy is tf.distribute.get_strategy()

    @property
    def strategy_name(self) -> str:
        """Class of the strategy, or ``no strategy``."""
        if self.is_single:
            return "no strategy"
        # The class for several workers still has the name that it had first.
        return "MultiWorkerMirroredStrategy" if self.workers.part else type(self.strategy).__name__


def prepare(config: Config, cluster: Cluster = ALONE) -> Devices:
    """Sets up the devices that the config asks for; to be called before anything else touches
    TensorFlow.

    Args:
        config: what to do.
        cluster: the processes that share the work; those of several have met.

    Raises:
        DeviceError: a device that is asked for is not there, there are fewer pictures per batch
            than replicas, or TensorFlow was set up otherwise before in this process.
        WorkersError: TensorFlow cannot join the other workers.
    """
    _check(config, cluster)
    gpus = _choose_gpus(config)
    kind = "GPU" if gpus else "CPU"
    try:
        # Without it, the first process takes the whole memory of every GPU.
        for gpu in gpus if config.logical_replicas == 1 else ():
            tf.config.experimental.set_memory_growth(gpu, True)
        if gpus:
            tf.config.set_visible_devices(gpus, "GPU")
        if config.logical_replicas > 1:
            whole, *_ = gpus or tf.config.list_physical_devices("CPU")
            before = tf.config.get_logical_device_configuration(whole) or []
            if len(before) < config.logical_replicas:
                memory_mb = _LOGICAL_GPU_MEMORY_MB if gpus else None
                part = tf.config.LogicalDeviceConfiguration(memory_limit=memory_mb)
                parts = [part] * config.logical_replicas
                tf.config.set_logical_device_configuration(whole, parts)
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"--logical_replicas={config.logical_replicas} --gpus={config.gpus}: TensorFlow already"
            f" uses other devices in this process ({error}); start a new process"
        ) from error
    if cluster.count > 1:
        strategy, names = _several_workers(cluster, len(gpus))
    else:
        strategy, names = _one_process(config, kind, len(gpus))
    expected = ""
    if cluster.count > 1 and config.batch_size % len(names):
        expected = f"a multiple of {len(names)}, the replicas of {cluster.count} workers"
    elif config.batch_size < len(names):
        expected = f"at least one picture for each of {len(names)} replicas"
    if expected:
        raise DeviceError(f"--batch_size={config.batch_size}: expected {expected}")
    if config.jit and len(names) > 1:
        raise DeviceError(
            f"--jit with {len(names)} replicas: XLA compiles for one device; give --strategy=none"
        )
    for note in compilation_notes(map(tf.config.experimental.get_device_details, gpus)):
        logger.warning("warning: %s", note)
    return Devices(strategy, kind, names, _precision(config, gpus), Workers(strategy, cluster))


def _check(config: Config, cluster: Cluster) -> None:
    if config.jit and config.deterministic:
        raise DeviceError(
            "--jit with --deterministic: XLA has no deterministic max pooling; give one of them"
        )
    if cluster.count == 1:
        if config.strategy == "multi_worker":
            raise DeviceError(
                "--strategy=multi_worker: TF_CONFIG does not name several workers; set it on every"
                " machine, with the same cluster and the machine's own task"
            )
    elif config.strategy not in ("auto", "multi_worker") or config.logical_replicas > 1:
        raise DeviceError(
            f"--strategy={config.strategy} --logical_replicas={config.logical_replicas}: TF_CONFIG"
            f" names {cluster.count} workers, which need --strategy=multi_worker and devices that"
            " are not split; unset TF_CONFIG to train on this machine alone"
        )


def _one_process(
    config: Config, kind: str, gpus: int
) -> tuple[tf.distribute.Strategy, tuple[str, ...]]:
    count = config.logical_replicas if config.logical_replicas > 1 else max(gpus, 1)
    available = tf.config.list_logical_devices(kind)[:count]
    names = tuple(device.name.removeprefix("/device:") for device in available)
    if config.strategy == "none" or (config.strategy == "auto" and len(names) == 1):
        names = names[:1]
        strategy = tf.distribute.get_strategy()
    else:
        # TensorFlow takes NCCL by itself, which is for GPUs that are there once each: a split one
        # it recognises only if no other is in the machine (mirrored_strategy.py counts all). There
        # and on CPUs the sum is taken on the first replica: collective operations would also tie
        # every later strategy of the process to the shapes of the first.
        whole = kind == "GPU" and config.logical_replicas == 1
        reduction = None if whole else tf.distribute.ReductionToOneDevice()
        strategy = tf.distribute.MirroredStrategy(list(names), cross_device_ops=reduction)
    return strategy, names


def _several_workers(cluster: Cluster, gpus: int) -> tuple[tf.distribute.Strategy, tuple[str, ...]]:
    # Every worker a worker, the first of them the chief: one numbering, whatever TF_CONFIG calls
    # them.
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": cluster.workers}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators={"GPU": gpus},
        rpc_layer="grpc",
    )
    # Without a hint TensorFlow sums over its own connections between processes, on GPUs too
    # (collective_param_resolver_local.cc, AssignCollectiveType).
    communication = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        timeout_seconds=cluster.stall_s,
        implementation=communication.NCCL if gpus else communication.RING,
    )
    try:
        # Before anything asks for logical devices: with those TensorFlow sets itself up, for one
        # process alone.
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
    except (tf.errors.OpError, RuntimeError) as error:
        raise WorkersError(
            f"{cluster.workers[cluster.index]}: TensorFlow cannot begin as this worker"
            f" ({str(error).splitlines()[0]}); give a free port, and start a new process"
        ) from error
    devices = [f"GPU:{number}" for number in range(gpus)] or ["CPU:0"]
    names = tuple(
        f"worker {index} {device}" for index in range(cluster.count) for device in devices
    )
    return strategy, names


def _precision(config: Config, gpus: Sequence[tf.config.PhysicalDevice]) -> str:
    gains = VARIANTS[config.variant].bfloat16
    if config.mixed_precision != "auto":
        fits = config.mixed_precision == "bfloat16"
    elif gpus:
        details = map(tf.config.experimental.get_device_details, gpus)
        fits = "gpu" in gains and all(
            detail.get("compute_capability", (0, 0)) >= _BFLOAT16_CAPABILITY for detail in details
        )
    else:
        # Whether the processor multiplies bfloat16 matrices; only Linux tells.
        fits = "cpu" in gains and (
            _PROCESSORS.exists() and " amx_bf16" in _PROCESSORS.read_text(encoding="utf-8")
        )
    return "mixed_bfloat16" if fits else "float32"


def _choose_gpus(config: Config) -> list[tf.config.PhysicalDevice]:
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus and (listed := _driver_gpus()):
        hint = f"the driver lists {listed} GPU(s) but TensorFlow sees none: {_why_hidden()}"
        if config.require_gpu or config.gpus:
            raise DeviceError(hint)
        logger.warning("warning: %s", hint)
    if config.require_gpu and not gpus:
        raise DeviceError(
            "--require_gpu: TensorFlow sees no GPU on this machine, and nvidia-smi lists none"
        )
    if not config.gpus:
        return gpus
    numbers = [int(number) for number in config.gpus.split(",")]
    if missing := [number for number in numbers if number >= len(gpus)]:
        raise DeviceError(
            f"--gpus={config.gpus}: there is no GPU {missing[0]}; TensorFlow sees {len(gpus)}"
        )
    return [gpus[number] for number in numbers]


def _why_hidden() -> str:
    # nvidia-smi lists GPUs that this hides from programs.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible} hides them; unset it"
    # The wheel's RUNPATH misses the folders of some of the libraries that it opens by name. What it
    # ignores below 6.0 it tells only in its own log (gpu_device.cc, GetValidDeviceIds).
    return (
        'install its GPU libraries with `make install GPU=1` (pip install ".[gpu]"); if they'
        " are installed, put site-packages/nvidia/*/lib on LD_LIBRARY_PATH; TensorFlow uses no GPU"
        " below compute capability 6.0"
    )


def compilation_notes(details: Iterable[Mapping[str, Any]]) -> list[str]:
    """Says what has to be compiled at a start, once for each kind of GPU.

    Args:
        details: of each GPU, as TensorFlow gives them.
    """
    builds = tf.sysconfig.get_build_info().get("cuda_compute_capabilities", ())
    kinds = {
        (gpu.get("device_name", "GPU"), gpu["compute_capability"])
        for gpu in details
        if "compute_capability" in gpu
    }
    return sorted(filter(None, (compilation_note(*kind, builds) for kind in kinds)))


def compilation_note(name: str, capability: tuple[int, int], builds: Sequence[str]) -> str:
    """Says what TensorFlow has to compile before it computes on a GPU.

    Looked at in the wheel of TensorFlow 2.21 for Linux x86-64 on 2026-11-27: of 1,438 groups of
    kernels all have code for sm_60, sm_70, sm_80 and sm_89, and PTX of compute_90; 289, the large
    ones, have code for sm_90 too. PTX is text that the driver compiles.

    Args:
        name: of the GPU.
        capability: its compute capability, such as ``(9, 0)``.
        builds: what TensorFlow was compiled for.

    Returns:
        Sentences without the last full stop; empty where there is nothing to compile.
    """
    if _covered(capability, "sm", builds):
        return ""
    gpu = f"{name} (compute capability {capability[0]}.{capability[1]})"
    # TensorFlow's build makes code of compute_90 for 9.0 itself, for its large kernels.
    if _covered(capability, "compute", builds):
        return (
            f"{gpu}: TensorFlow compiles its small kernels for it when they are first used; that"
            f" needs NVIDIA's driver {_PTX_DRIVER} or newer"
        )
    return (
        f"{gpu}: TensorFlow holds no code compiled for it. The first start compiles, for 30 minutes"
        f" or longer by TensorFlow's own words, and needs NVIDIA's driver {_PTX_DRIVER} or newer."
        " Later starts find the result in ~/.nv/ComputeCache, or where CUDA_CACHE_PATH says"
    )


def _covered(capability: tuple[int, int], kind: str, builds: Sequence[str]) -> bool:
    """Code runs on its own compute capability and on higher ones of the same major version
    (docs.nvidia.com/cuda/hopper-compatibility-guide, section 1.2, read on 2026-11-27).
    """
    major, highest = capability
    return any(f"{kind}_{major}{minor}" in builds for minor in range(highest + 1))


def _driver_gpus() -> int:
    """How many GPUs the driver lists; 0 where there is no driver."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"],
            check=False,
            capture_output=True,
            text=True,
            timeout=_NVIDIA_SMI_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())

"""Which devices a run uses, and the strategy that spreads a batch over them."""

import logging
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from trainer.cluster import ALONE, Cluster
from trainer.config import Config
from trainer.errors import DeviceError, WorkersError
from trainer.variants import VARIANTS
from trainer.workers import Workers

logger = logging.getLogger(__name__)

# nvidia-smi answers at once or hangs on a broken driver.
_NVIDIA_SMI_TIMEOUT_S = 10.0

# A split GPU must be told how much memory each part gets. Splitting is for looking at replicas, not
# for speed.
_LOGICAL_GPU_MEMORY_MB = 1024

# From this compute capability on NVIDIA's GPUs have units for bfloat16 (Ampere). Older ones have
# them for float16 only, whose gradients need loss scaling.
_BFLOAT16_CAPABILITY = (8, 0)

# Where Linux lists what its processors can do.
_PROCESSORS = Path("/proc/cpuinfo")


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
    def is_single(self) -> bool:
        """Tells whether there is one device, and so no strategy."""
        return self.strategy is tf.distribute.get_strategy()

    @property
    def strategy_name(self) -> str:
        """Class of the strategy, or ``no strategy``."""
        if self.is_single:
            return "no strategy"
        # Its class still has the name that it had first.
        several = isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy)
        return "MultiWorkerMirroredStrategy" if several else type(self.strategy).__name__


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
    physical = gpus or tf.config.list_physical_devices("CPU")
    try:
        for gpu in gpus:
            # Without it, the first process takes the whole memory of every GPU.
            if config.logical_replicas == 1:
                tf.config.experimental.set_memory_growth(gpu, True)
        if gpus:
            tf.config.set_visible_devices(gpus, "GPU")
        if config.logical_replicas > 1:
            _split(physical[0], config.logical_replicas)
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"--logical_replicas={config.logical_replicas} --gpus={config.gpus}: TensorFlow is set"
            f" up otherwise in this process already ({error}); start a new one"
        ) from error
    if cluster.count > 1:
        return _several_workers(config, cluster, gpus)
    available = tf.config.list_logical_devices(kind)
    wanted = config.logical_replicas if config.logical_replicas > 1 else len(gpus)
    names = tuple(device.name.removeprefix("/device:") for device in available[: max(wanted, 1)])
    if config.strategy == "none" or (config.strategy == "auto" and len(names) == 1):
        names = names[:1]
        strategy = tf.distribute.get_strategy()
    else:
        # NCCL is for GPUs. On CPUs the sum is taken on the first replica: collective operations
        # would also tie every later strategy of the process to the shapes of the first.
        reduction = None if kind == "GPU" else tf.distribute.ReductionToOneDevice()
        strategy = tf.distribute.MirroredStrategy(list(names), cross_device_ops=reduction)
    if config.batch_size < len(names):
        raise DeviceError(
            f"--batch_size={config.batch_size}: expected at least one picture for each of"
            f" {len(names)} replicas"
        )
    _check_jit(config, names)
    return Devices(strategy, kind, names, _precision(config, gpus), Workers(strategy))


def _check(config: Config, cluster: Cluster) -> None:
    if cluster.count == 1:
        if config.strategy == "multi_worker":
            raise DeviceError(
                "--strategy=multi_worker: TF_CONFIG names no second worker; set it to the same"
                " cluster, and each one's own task, on every machine"
            )
    elif config.strategy not in ("auto", "multi_worker") or config.logical_replicas > 1:
        raise DeviceError(
            f"--strategy={config.strategy} --logical_replicas={config.logical_replicas}: TF_CONFIG"
            f" names {cluster.count} workers, which need --strategy=multi_worker and devices that"
            " are not split; unset TF_CONFIG to train on this machine alone"
        )


def _check_jit(config: Config, names: Sequence[str]) -> None:
    if config.jit and len(names) > 1:
        raise DeviceError(
            f"--jit with {len(names)} replicas: XLA compiles for one device; give --strategy=none"
        )
    if config.jit and config.deterministic:
        raise DeviceError(
            "--jit with --deterministic: XLA has no deterministic max pooling; give one of them"
        )


def _several_workers(
    config: Config, cluster: Cluster, gpus: Sequence[tf.config.PhysicalDevice]
) -> Devices:
    # Every worker a worker, the first of them the chief: one numbering, whatever TF_CONFIG calls
    # them.
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": cluster.workers}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators={"GPU": len(gpus)},
        rpc_layer="grpc",
    )
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=cluster.stall_s)
    try:
        # Before anything asks for logical devices: with those TensorFlow sets itself up, for one
        # process alone.
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
    except (tf.errors.OpError, RuntimeError) as error:
        raise WorkersError(
            f"{cluster.workers[cluster.index]}: TensorFlow cannot begin as this worker"
            f" ({str(error).splitlines()[0]}); give a free port, and start a new process"
        ) from error
    devices = [f"GPU:{number}" for number in range(len(gpus))] or ["CPU:0"]
    names = tuple(
        f"worker {index} {device}" for index in range(cluster.count) for device in devices
    )
    if config.batch_size % len(names):
        raise DeviceError(
            f"--batch_size={config.batch_size}: expected a multiple of {len(names)}, the replicas"
            f" of {cluster.count} workers"
        )
    _check_jit(config, names)
    return Devices(
        strategy,
        "GPU" if gpus else "CPU",
        names,
        _precision(config, gpus),
        Workers(strategy, cluster),
    )


def _precision(config: Config, gpus: Sequence[tf.config.PhysicalDevice]) -> str:
    if config.mixed_precision == "auto":
        gains = VARIANTS[config.variant].bfloat16
        if gpus:
            details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
            fits = "gpu" in gains and all(
                detail.get("compute_capability", (0, 0)) >= _BFLOAT16_CAPABILITY
                for detail in details
            )
        else:
            fits = "cpu" in gains and _cpu_has_amx()
    else:
        fits = config.mixed_precision == "bfloat16"
    return "mixed_bfloat16" if fits else "float32"


def _cpu_has_amx() -> bool:
    """Whether the processor multiplies bfloat16 matrices (Linux tells; elsewhere: no)."""
    return _PROCESSORS.exists() and " amx_bf16" in _PROCESSORS.read_text(encoding="utf-8")


def _split(device: tf.config.PhysicalDevice, count: int) -> None:
    if len(tf.config.get_logical_device_configuration(device) or ()) >= count:
        return
    memory_mb = _LOGICAL_GPU_MEMORY_MB if device.device_type == "GPU" else None
    tf.config.set_logical_device_configuration(
        device, [tf.config.LogicalDeviceConfiguration(memory_limit=memory_mb) for _ in range(count)]
    )


def _choose_gpus(config: Config) -> list[tf.config.PhysicalDevice]:
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus and (listed := _driver_gpus()):
        hint = (
            f"the driver lists {listed} GPU(s) but TensorFlow sees none: install its GPU libraries"
            ' with `make install GPU=1` (pip install ".[gpu]"), and put site-packages/nvidia/*/lib'
            " on LD_LIBRARY_PATH if they are there already"
        )
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


def _driver_gpus() -> int:
    """How many GPUs the driver lists; 0 where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        listed = subprocess.run(
            [program, "-L"],
            check=False,
            capture_output=True,
            text=True,
            timeout=_NVIDIA_SMI_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())

"""The file of --monitoring_config_file: whether and where the REST port shows metrics to
Prometheus.
"""

from pathlib import Path

from serving.config import text_file
from serving.config.text_file import ConfigError, Message
from serving.protos import message

KIND = "MonitoringConfig"

# tensorflow/serving, tensorflow_serving/util/prometheus_exporter.cc: kPrometheusPath.
DEFAULT_PATH = "/monitoring/prometheus/metrics"

write = text_file.write


def make(path: str = DEFAULT_PATH) -> Message:
    """Makes a tensorflow.serving.MonitoringConfig that shows metrics at a path of the REST port.

    Raises:
        ConfigError: `path` cannot be one.
    """
    config = message(f"tensorflow.serving.{KIND}")(prometheus_config={"enable": True, "path": path})
    check(config, KIND)
    return config


def read(path: str | Path) -> Message:
    """Reads and checks a file.

    Raises:
        ConfigError: it cannot be read, is no text MonitoringConfig, or is refused by `check`.
    """
    config = text_file.read(path, KIND)
    check(config, str(path))
    return config


def check(config: Message, source: str) -> None:
    """Refuses a path at which no request can arrive; an empty one is the default.

    Args:
        config: a tensorflow.serving.MonitoringConfig.
        source: where it comes from, for the error.

    Raises:
        ConfigError: the path does not begin with a slash.
    """
    path = config.prometheus_config.path
    if path and not path.startswith("/"):
        raise ConfigError(
            f"{source}: the path of prometheus_config is {path}: expected one that begins with /"
        )

from pathlib import Path

import pytest

from serving.config import DEFAULT_METRICS_PATH, ConfigError, monitoring


@pytest.mark.parametrize(
    "path", [DEFAULT_METRICS_PATH, "/metrics", "/", '/with "quotes" and ünicode']
)
def test_what_make_writes_is_read_back_as_the_same_message(tmp_path: Path, path: str) -> None:
    monitoring.write(tmp_path / "monitoring.config", monitoring.make(path))
    read = monitoring.read(tmp_path / "monitoring.config")
    assert read == monitoring.make(path)
    assert read.prometheus_config.enable


def test_a_file_without_a_path_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("prometheus_config { enable: true }")
    assert monitoring.read(tmp_path / "m").prometheus_config.path == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'prometheus_config { enable: true path: "metrics" }',
            ": the path of prometheus_config is metrics: expected one",
        ),
        (
            "prometheus_config { enabled: true }",
            r" is not a MonitoringConfig \(1:21: .* no field named \"enabled\"\.\)",
        ),
        ("prometheus_config { enable: yes }", r" is not a MonitoringConfig \(1:29: .*\)"),
        (
            "\xff",
            r" is not a MonitoringConfig \(byte 0 is not UTF-8\): expected protobuf's text format",
        ),
    ],
)
def test_a_file_that_shows_no_metrics_is_refused_in_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "monitoring.config"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=f"^{path}{message}") as caught:
        monitoring.read(path)
    assert "\n" not in str(caught.value)

"""models.config, compared with what tf_serving's own text format accepts."""

import pytest

from serving.config import ConfigError, render
from serving.config.models_config import live_version, parse, with_live

STRANGERS = """
model_config_list {
  config {
    name: "digits",
    base_path: "/elsewhere/digits",
    model_platform: "tensorflow"
    model_version_policy { latest { num_versions: 2 } }
  }
  config {
    name: "whisker" base_path: "/models/whisker" model_platform: "tensorflow"
    model_version_policy { specific { versions: 2 versions: 3 versions: 4 } }
    version_labels { key: "stable" value: 3 }
    version_labels { key: "canary" value: 4 }
  }
}
"""


def test_with_live_on_an_empty_file_writes_what_tensorflow_serving_needs() -> None:
    text = render(with_live(parse("", "models.config"), "whisker", "/models/whisker", 1))
    assert (
        text == "model_config_list {\n"
        "  config {\n"
        '    name: "whisker"\n'
        '    base_path: "/models/whisker"\n'
        '    model_platform: "tensorflow"\n'
        "    model_version_policy {\n      specific {\n        versions: 1\n      }\n    }\n"
        '    version_labels {\n      key: "stable"\n      value: 1\n    }\n'
        "  }\n"
        "}\n"
    )


def test_with_live_keeps_other_models_labels_and_versions_and_drops_the_old_live_version() -> None:
    before = parse(STRANGERS, "models.config")
    after = parse(render(with_live(before, "whisker", "gs://bucket/whisker", 7)), "models.config")
    digits, whisker = after.model_config_list.config
    assert digits == before.model_config_list.config[0]
    assert list(whisker.model_version_policy.specific.versions) == [2, 4, 7]
    assert dict(whisker.version_labels) == {"stable": 7, "canary": 4}
    assert whisker.base_path == "gs://bucket/whisker"
    assert live_version(before, "whisker") == 3


def test_with_live_keeps_the_old_live_version_loaded_where_another_label_names_it() -> None:
    config = parse(STRANGERS.replace("value: 4", "value: 3"), "models.config")
    changed = with_live(config, "whisker", "/models/whisker", 5).model_config_list.config[1]
    assert list(changed.model_version_policy.specific.versions) == [2, 3, 4, 5]


@pytest.mark.parametrize("model_name", ["digits", "nobody"])
def test_live_version_without_the_label_or_the_model_is_none(model_name: str) -> None:
    assert live_version(parse(STRANGERS, "models.config"), model_name) is None


def test_with_live_on_a_relative_base_path_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"base_path of the model whisker is models/whisker: expected an absolute"
    ):
        with_live(parse("", "models.config"), "whisker", "models/whisker", 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model_config_list {",
            (
                r"^/m/models\.config is not a ModelServerConfig \(1:19: Expected \"}\"\.\):"
                r" expected .*; fix it, or move it"
            ),
        ),
        ("no_such_field: 1", r"^/m/models\.config is not a ModelServerConfig \(.*no_such_field"),
        (b"\xff\xfe", r"^/m/models\.config is not a ModelServerConfig \("),
        (
            STRANGERS.replace('"/elsewhere/digits"', '"elsewhere"'),
            r": base_path of the model digits is elsewhere: exp",
        ),
        (
            STRANGERS.replace('platform: "tensorflow"', 'platform: ""', 1),
            (
                r"^/m/models\.config: the model digits has no model_platform: add model_platform:"
                r' "tensorflow"$'
            ),
        ),
        (
            STRANGERS.replace("versions: 4 ", ""),
            (
                r": the label canary of the model whisker is on version 4, which is not among its"
                r" .* \[2, 3\]"
            ),
        ),
        (
            STRANGERS.replace("latest { num_versions: 2 }", "specific {}"),
            r": the model digits has no specific versions: name at least one$",
        ),
        (
            STRANGERS.replace("digits", "whisker"),
            r"^/m/models\.config lists the model whisker 2 times",
        ),
        (
            "custom_model_config {}",
            r"^/m/models\.config has a custom_model_config: expected a model_config_list",
        ),
    ],
)
def test_parse_of_a_broken_file_says_in_one_line_which_and_why(
    text: str | bytes, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(text, "/m/models.config")
    assert "\n" not in str(caught.value)

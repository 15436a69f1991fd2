"""The report of a run: what it shows, escapes, leaves out, and that nothing leaves the page."""

import base64
import copy
import re
from html.parser import HTMLParser

import pytest

from trainer.errors import RunError
from trainer.reporting import write_report

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PICTURES = (
    "class_rows.jpg",
    "label_counts.png",
    "augmentation.jpg",
    "training_curves.png",
    "confusion.png",
    "thresholds.png",
    "reliability.png",
    "prediction_grid.jpg",
    "mistakes.jpg",
    "least_certain.jpg",
)
SAID = {
    "sha256": "0",
    "path": "dogs/7.jpg",
    "label": "dogs",
    "predicted": "cats",
    "probability": 0.973,
}
HEADINGS = [
    "What the numbers say",
    "Data",
    "Augmentation",
    "Training",
    "Model",
    "Test",
    "Model card",
]
ENVIRONMENT = {"python": "3.11.7", "devices": "GPU:0, GPU:1", "commit": "unknown"}
RESULT = {
    "variant": "preprocessed",
    "recipe": "notebook",
    "classes": ["cats", "dogs"],
    "parameters": {"total": 1346753, "trainable": 1346753},
    "epochs": 1,
    "chosen_epoch": 1,
    "throughput": [172.4],
    "history": {
        "learning_rate": [0.001],
        "accuracy": [0.563],
        "loss": [0.685],
        "validation_accuracy": [0.641],
        "validation_loss": [0.64],
        "seconds": [11.6],
    },
    "baseline_accuracy": 0.5,
    "validation": {
        "n": 2,
        "accuracy": 0.5,
        "interval_95": [0.1, 0.9],
        "loss": 0.7,
        "per_class": {},
    },
    "test": {
        "n": 198,
        "accuracy": 0.6363,
        "interval_95": [0.5673, 0.7002],
        "loss": 0.62672,
        "balanced_accuracy": 0.6364,
        "macro_f1": 0.6362,
        "top_5_accuracy": None,
        "per_class": {
            "cats": {
                "n": 99,
                "correct": 65,
                "recall": 0.6566,
                "predicted": 103,
                "precision": 0.6311,
                "f1": 0.6436,
            },
            "dogs": {
                "n": 99,
                "correct": 61,
                "recall": 0.6162,
                "predicted": 95,
                "precision": None,
                "f1": None,
            },
        },
    },
    "calibration": {
        "temperature": 1.5,
        "fitted_on": 802,
        "before": {"loss": 0.7, "error": 0.141, "error_by_chance": 0.02, "bins": []},
        "after": {"loss": 0.6, "error": 0.013, "error_by_chance": 0.02, "bins": []},
    },
    "curves": {"of": "dogs", "roc": {"area": 0.71}, "precision_recall": {"area": 0.69}},
    "unsure": {
        "target": 0.05,
        "lowest_probability": 0.61,
        "lowest_familiarity": None,
        "sure": 300,
    },
    "at_random": [SAID],
    "mistakes": [SAID],
    "least_certain": [SAID | {"predicted": "dogs", "probability": 0.5}],
    "reading": [
        {"about": "baseline", "verdict": "good", "text": "Better than guessing."},
        {"about": "classes", "verdict": "unclear", "text": "Not enough pictures to tell."},
    ],
    "export": {"size_bytes": 11_052_208, "latency_ms": 16.2, "calls": 20},
    "seconds": {"data": 5.9, "train": 135.2, "evaluate": 1.1, "export": 0.6, "total": 4000.0},
    "images_per_second": 1729.6,
    "verification": {
        "bound": 1e-5,
        "n": 198,
        "largest_difference": 2.4e-7,
        "flips": 0,
        "over_rest": {"n": 20, "largest_difference": 1.2e-7, "flips": 0},
        "latency_ms": {"p50": 9.1, "p99": 14.2, "calls": 100},
        "size_bytes": 11_052_208,
        "load_seconds": 6.1,
        "warmup_records": 3,
    },
    "gate": {
        "sentence": "The gate let it through: better than version 6, which is live: of <b>198</b>."
    },
    "model_version": 7,
    "model_path": "gs://bucket/models/whisker/7",
    "data": {
        "name": "my_pictures",
        "digest": "f354",
        "counts": {
            "train": {"cats": 1000, "dogs": 1001},
            "validation": {"cats": 401, "dogs": 400},
            "test": {"cats": 99, "dogs": 98},
        },
        "left_out": [],
        "class_weights": {"cats": 1.0, "dogs": 1.0},
        "looks_at_test": None,
    },
    "layers": [
        {
            "name": "pixels",
            "type": "InputLayer",
            "output_shape": [160, 160, 3],
            "parameters": 0,
            "trainable": False,
        },
        {
            "name": "logits",
            "type": "Dense",
            "output_shape": [1],
            "parameters": 129,
            "trainable": True,
        },
    ],
    "config": {
        "data": "my_pictures",
        "class_weights": "none",
        "epochs": 1,
        "deterministic": False,
        "gpus": "",
        "backbone": "mobilenet_v2",
        "head": "",
        "base_weights": "imagenet",
    },
}


@pytest.fixture
def result():
    return copy.deepcopy(RESULT)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in PICTURES:
        (folder / name).write_bytes(PNG)
    return folder


class Page(HTMLParser):
    """A written report: its tags, its text with white space made single, its tables as rows of
    cells.
    """

    def __init__(self, html):
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self._text: list[str] = []
        self.feed(html)
        self.close()
        self.text = " ".join("".join(self._text).split()).replace("\N{NARROW NO-BREAK SPACE}", " ")

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "path"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        if tag != "path":
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self._text.append(data)
        if self.open and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data.replace("\N{NARROW NO-BREAK SPACE}", " ")

    def headings(self):
        return re.findall(r"<h2[^>]*>([^<]+)<", self.html)

    def table(self, first):
        return next(rows for rows in self.tables if rows[0][0] == first)


def write(result, pictures):
    report = pictures.parent / "report.html"
    write_report(result, ENVIRONMENT, pictures, report)
    return Page(report.read_text(encoding="utf-8"))


def test_headline_says_accuracy_interval_and_baseline_in_words(result, pictures):
    text = write(result, pictures).text
    assert "63.6 % test accuracy, variant preprocessed on my_pictures" in text
    assert (
        "On 198 test pictures that it had never seen, it does better than always answering the"
        " commonest" in text
    )
    assert (
        "which is right on 50.0 %. With so many pictures, the true accuracy lies"
        " between 56.7 % and 70.0 % (95 % interval)." in text
    )
    assert "Published as version 7: gs://bucket/models/whisker/7" in text


@pytest.mark.parametrize(
    ("right", "verdict"),
    [
        (40, "an exact test does not tell it apart from always answering the commonest class"),
        (10, "it does worse than always answering the commonest class"),
    ],
)
def test_verdict_is_that_of_the_exact_test(result, pictures, right, verdict):
    result["test"]["per_class"]["cats"]["correct"] = right
    assert verdict in write(result, pictures).text


def test_all_sections_stand_in_order_with_every_picture(result, pictures):
    page = write(result, pictures)
    assert page.headings() == HEADINGS
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(PICTURES)
    assert all(len(image["alt"]) > 30 for image in images)
    assert not page.open


def test_tables_show_counts_layers_recalls_and_settings(result, pictures):
    page = write(result, pictures)
    counts, recalls = (rows for rows in page.tables if rows[0][0] == "class")
    assert counts[0] == ["class", "train", "validation", "test", "total"]
    assert counts[2] == ["dogs", "1,001", "400", "98", "1,499"]
    assert counts[3] == ["total", "2,001", "801", "197", "2,999"]
    assert recalls[1] == ["cats", "99", "65", "65.7 %", "63.1 %", "64.4 %"]
    layers = page.table("layer")
    assert layers[1:] == [
        ["pixels", "InputLayer", "160 × 160 × 3", "0", "–"],
        ["logits", "Dense", "1", "129", "yes"],
        ["total", "1,346,753", ""],
        ["trained", "1,346,753", ""],
    ]
    assert page.table("data")[:5] == [
        ["data", "my_pictures"],
        ["class_weights", "none"],
        ["epochs", "1"],
        ["deterministic", "false"],
        ["gpus", "–"],
    ]
    assert page.table("picture")[1] == ["dogs/7.jpg", "dogs", "cats", "97.3 %"]
    assert page.table("python")[1] == ["devices", "GPU:0, GPU:1"]
    for words in ("2 min 15 s", "1 h 6 min", "1,730", "0.6267", "balanced accuracy 63.6 %"):
        assert words in page.text


def test_nothing_leaves_the_page_and_nothing_runs(result, pictures):
    page = write(result, pictures)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {
        tag for tag, _ in page.tags
    }
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "data:").startswith("data:")
    style = re.search("<style>(.*)</style>", page.html, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_labels_paths_and_settings_with_html_are_shown_as_they_are(result, pictures):
    hostile = '"><script>alert(1)</script>&amp;$x_{'
    result["classes"][0] = hostile
    for of_class in (*result["data"]["counts"].values(), result["test"]["per_class"]):
        of_class[hostile] = of_class.pop("cats")
    result["data"]["left_out"] = [{"path": hostile, "reason": "<b>"}]
    result["config"]["data"] = result["data"]["name"] = result["model_path"] = hostile
    for each in (result["mistakes"][0], result["reading"][0]):
        each |= {
            "label": hostile,
            "predicted": hostile,
            "path": hostile,
            "about": hostile,
            "text": hostile,
        }
    page = write(result, pictures)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.table("file")[1] == [hostile, "<b>"]
    assert page.table("class")[1][0] == hostile
    assert hostile in next(attributes["alt"] for tag, attributes in page.tags if tag == "img")


def test_class_names_that_look_like_numbers_or_attributes_keep_their_counts(result, pictures):
    result["classes"] = ["0", "items.x"]
    result["data"]["counts"] = {"train": {"0": 3, "items.x": 4}, "test": {"items.x": 1}}
    per_class = result["test"]["per_class"]
    result["test"]["per_class"] = dict(zip(result["classes"], per_class.values(), strict=True))
    assert write(result, pictures).table("class")[1:3] == [
        ["0", "3", "0", "3"],
        ["items.x", "4", "1", "5"],
    ]


def test_many_classes_are_cut_to_fifty_and_the_worst_come_first(result, pictures):
    names = [f"class_{number:03d}" for number in range(200)]
    result["classes"] = names
    result["data"]["counts"] = {
        split: dict.fromkeys(names, 10) for split in ("train", "validation", "test")
    }
    result["test"]["per_class"] = {
        name: {"n": 10, "correct": 0, "recall": 1 - number / 200, "precision": 0.5, "f1": 0.5}
        for number, name in enumerate(names)
    }
    result["test"]["per_class"]["class_199"] = {
        "n": 0,
        "correct": 0,
        "recall": None,
        "precision": None,
        "f1": None,
    }
    page = write(result, pictures)
    counts, recalls = (rows for rows in page.tables if rows[0][0] == "class")
    assert len(counts) == 1 + 50 + 1
    assert counts[-1] == ["total", "2,000", "2,000", "2,000", "6,000"]
    assert len(recalls) == 1 + 50
    assert [row[0] for row in recalls[1:3]] == ["class_198", "class_197"]
    assert "… and 150 more classes, none with a lower recall" in page.text
    assert (
        "class_009; 190 more classes are not shown"
        in page.tags[[tag for tag, _ in page.tags].index("img")][1]["alt"]
    )


def test_class_without_test_pictures_has_no_recall(result, pictures):
    result["test"]["per_class"]["dogs"] = {
        "n": 0,
        "correct": 0,
        "recall": None,
        "precision": 0.25,
        "f1": 0.0,
    }
    assert ["dogs", "0", "0", "–", "25.0 %", "0.0 %"] in write(result, pictures).tables[2]


def test_reading_says_what_is_good_and_what_pictures_do_not_tell(result, pictures):
    page = write(result, pictures)
    assert "✓ baseline Better than guessing." in page.text
    assert "? classes Not enough pictures to tell." in page.text


def test_run_without_a_mistake_says_so(result, pictures):
    result["mistakes"] = []
    assert "None: every test picture was answered right." in write(result, pictures).text


def test_curves_of_one_class_alone_are_not_spoken_of(result, pictures):
    result["curves"] = {"of": "dogs", "roc": None, "precision_recall": None}
    (pictures / "thresholds.png").unlink()
    assert "area" not in write(result, pictures).text


def test_section_without_its_picture_is_left_out(result, pictures):
    (pictures / "augmentation.jpg").unlink()
    assert write(result, pictures).headings() == [
        title for title in HEADINGS if title != "Augmentation"
    ]


def test_report_without_any_picture_still_has_its_numbers(result, pictures):
    page = write(result, pictures / "missing")
    assert "img" not in {tag for tag, _ in page.tags}
    assert "63.6 % test accuracy" in page.text


def test_unpublished_run_says_so(result, pictures):
    result["model_version"] = result["model_path"] = None
    text = write(result, pictures).text
    assert "Not published: the model stays in its run folder." in text
    assert "None" not in text


def test_first_fifty_files_left_out_are_named_and_the_rest_counted(result, pictures):
    result["data"]["left_out"] = [
        {"path": f"cats/{number}.jpg", "reason": "no picture"} for number in range(1234)
    ]
    page = write(result, pictures)
    assert "Left out: 1,234 files" in page.text
    assert "… and 1,184 more files" in page.text
    rows = page.table("file")
    assert rows[1] == ["cats/0.jpg", "no picture"]
    assert len(rows) == 1 + 50


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        (1, "first evaluation on these test pictures"),
        (3, "This is evaluation 3 on the same test pictures. If you chose settings"),
    ],
)
def test_looks_at_a_frozen_test_set_are_told(result, pictures, looks, said):
    assert "evaluation" not in write(result, pictures).text
    result["data"]["looks_at_test"] = looks
    assert said in write(result, pictures).text


def test_balanced_classes_tell_how_much_a_picture_weighs(result, pictures):
    assert "picture counts" not in write(result, pictures).text
    result["config"]["class_weights"] = "balanced"
    result["data"]["class_weights"] = {"cats": 0.5, "dogs": 2.25}
    assert "a picture counts 0.50 to 2.25 times" in write(result, pictures).text


def test_path_that_is_no_utf8_is_shown_escaped(result, pictures):
    result["data"]["left_out"] = [{"path": "cats/\udcff.jpg", "reason": "no picture"}]
    assert write(result, pictures).table("file")[1][0] == "cats/\\udcff.jpg"


def test_file_in_place_of_the_folder_is_one_line_and_leaves_nothing(result, pictures):
    before = sorted(pictures.iterdir())
    report = pictures / "class_rows.jpg" / "report.html"
    with pytest.raises(
        RunError,
        match=r"^cannot write .*report\.html: .*; free space, or give another run folder$",
    ):
        write_report(result, ENVIRONMENT, pictures, report)
    assert sorted(pictures.iterdir()) == before


def test_folder_in_place_of_the_report_leaves_no_part(result, pictures):
    report = pictures.parent / "report.html"
    report.mkdir()
    with pytest.raises(RunError, match="cannot write"):
        write_report(result, ENVIRONMENT, pictures, report)
    assert sorted(path.name for path in pictures.parent.iterdir()) == ["pictures", "report.html"]

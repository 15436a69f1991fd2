"""The pictures of a run: PNG and JPEG files of sane size, whatever the classes are called and
however many there are.
"""

import numpy as np
import pytest
from PIL import Image

from trainer.errors import RunError
from trainer.reporting import run_report, style

HARD = [
    "a_{b$",
    "$x^$",
    "<b>&\"'",
    "猫 \N{CAT FACE}",
    "\\frac{",
    "n02085620-Chihuahua with a very long name indeed",
]


@pytest.fixture(scope="module")
def noise():
    """Twenty pictures that compress as badly as any photograph, uint8 [20, 40, 40, 3]."""
    return np.random.default_rng(0).integers(0, 256, (20, 40, 40, 3), np.uint8)


def read(path):
    """Pixels of a file, once its format and its bytes are seen to be sane."""
    assert 1_000 < path.stat().st_size < 1_500_000
    with Image.open(path) as image:
        assert image.format == {".png": "PNG", ".jpg": "JPEG"}[path.suffix]
        assert image.mode == "RGB"
        assert 350 <= image.width <= 1000
        assert image.height <= 4000
        return np.asarray(image)


def said(true, predicted):
    return [
        {"label": label, "predicted": answer, "probability": 0.9, "importance": np.eye(5).tolist()}
        for label, answer in zip(true, predicted, strict=True)
    ]


def test_class_rows_with_hard_names_and_an_empty_class_are_drawn(noise, tmp_path):
    run_report.class_rows({**dict.fromkeys(HARD, noise[:3]), "empty": []}, tmp_path / "rows.jpg")
    pixels = read(tmp_path / "rows.jpg")
    assert pixels.shape[0] > 2 * pixels.shape[1]


def test_grid_stands_on_white_as_the_charts_do(noise, tmp_path):
    run_report.augmentation_grid(
        noise[0], {"flipped": noise[1:10], "rotated": noise[2:11]}, tmp_path / "augmentation.jpg"
    )
    pixels = read(tmp_path / "augmentation.jpg")
    assert pixels[5, -5].min() > 250
    assert pixels[-20, -20].min() < 250


def test_class_rows_of_two_hundred_classes_stop_at_ten(noise, tmp_path):
    run_report.class_rows(
        {f"class {number}": noise[:3] for number in range(200)}, tmp_path / "many.jpg"
    )
    run_report.class_rows(
        {f"class {number}": noise[:3] for number in range(10)}, tmp_path / "ten.jpg"
    )
    many, ten = read(tmp_path / "many.jpg"), read(tmp_path / "ten.jpg")
    assert many.shape[0] / many.shape[1] == pytest.approx(ten.shape[0] / ten.shape[1], rel=0.05)


@pytest.mark.parametrize(
    "names", [HARD, [f"class {number}" for number in range(200)]], ids=["hard", "many"]
)
def test_label_counts_are_drawn_whatever_the_classes(names, tmp_path):
    counts = {
        split: {name: number for number, name in enumerate(names)}
        for split in ("train", "validation", "test")
    }
    run_report.label_counts(counts, 0.5, tmp_path / "counts.png")
    read(tmp_path / "counts.png")


def test_prediction_grid_tells_right_from_wrong_by_colour(noise, tmp_path):
    true = [HARD[number % 6] for number in range(6)]
    run_report.prediction_grid(noise[:6], said(true, true), tmp_path / "right.jpg")
    run_report.prediction_grid(noise[:6], said(true, true[::-1]), tmp_path / "wrong.jpg")
    blue = [reads_as(read(tmp_path / name), style.BLUE) for name in ("right.jpg", "wrong.jpg")]
    assert blue[0] > 10 * max(blue[1], 1)


def reads_as(pixels, color):
    """Pixels near a colour: JPEG does not keep it exactly."""
    rgb = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)])
    return int((np.abs(pixels[..., :3].astype(int) - rgb).max(axis=-1) < 12).sum())


def test_picture_is_shown_as_it_is_and_beside_it_faded_where_the_answer_does_not_rest(tmp_path):
    white = np.full((1, 100, 100, 3), 255, np.uint8)
    (answer,) = said(["cats"], ["cats"])
    answer["importance"] = [[1.0, 0, 0, 0, -9.0], *([[0.0] * 5] * 4)]
    run_report.prediction_grid(white, [answer], tmp_path / "one.jpg")
    pixels = read(tmp_path / "one.jpg")[..., :3].mean(axis=-1)
    tile = pixels.shape[1] // 4
    shown, faded = (
        pixels[8 : tile - 8, 8 : tile - 8],
        pixels[8 : tile - 8, tile + 12 : 2 * tile - 4],
    )
    assert shown.min() > 240
    assert faded[: tile // 10, : tile // 10].mean() > 240
    assert faded[tile // 3 :, tile // 3 :].mean() < 180


@pytest.mark.parametrize("importance", [np.zeros((5, 5)), -np.ones((5, 5))])
def test_answer_that_rests_on_nothing_fades_all(importance, noise, tmp_path):
    (answer,) = said(["cats"], ["cats"])
    answer["importance"] = importance.tolist()
    run_report.prediction_grid(noise[:1], [answer], tmp_path / "one.jpg")
    read(tmp_path / "one.jpg")


def test_prediction_grid_of_one_picture_is_drawn(noise, tmp_path):
    run_report.prediction_grid(noise[:1], said(["cats"], ["cats"]), tmp_path / "one.jpg")
    read(tmp_path / "one.jpg")


def test_photographs_that_do_not_compress_are_drawn_coarser(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (12, 160, 160, 3), np.uint8)
    run_report.prediction_grid(noise, said(["cats"] * 12, ["dogs"] * 12), tmp_path / "grid.jpg")
    assert (tmp_path / "grid.jpg").stat().st_size <= style.MOST_BYTES


@pytest.mark.parametrize(
    ("name", "width", "lines", "label"),
    [
        ("n02085620-Chihuahua", 9, 1, "n020…ahua"),
        ("n02085620-Chihuahua", 10, 2, "n02085620-\nChihuahua"),
        ("golden retriever puppy", 16, 2, "golden retriever\npuppy"),
        ("Tomato___mosaic_virus", 16, 2, "Tomato___\nmosaic_virus"),
        ("猫\n", 9, 1, "\\u732b\\n"),
        ("a_$b", 9, 1, "a_$b"),
    ],
)
def test_label_is_broken_before_its_middle_is_left_out(name, width, lines, label):
    assert style.labels([name], width, lines) == {name: label}


LONG = "golden retriever of the northern hills, photographed in the winter"
ALIKE = {
    "beginning": [f"{word} {LONG}" for word in ("old", "odd", "red")],
    "middle": [LONG.replace("hills", word) for word in ("hills", "halls", "lakes")],
    "middle, twice": [
        LONG.replace("golden", colour).replace("hills", word)
        for colour in ("golden", "yellow")
        for word in ("hills", "halls")
    ],
    "end": [f"{LONG} {word}" for word in ("1", "2", "12")],
    "undrawable": ["猫", "犬", "猫犬", "\N{CAT FACE}", "قطة", "قط"],
    "blanks": ["cat", "cat ", " cat"],
    "many": [f"{LONG} of {number} and its young" for number in range(300)],
}


@pytest.mark.parametrize("names", ALIKE.values(), ids=ALIKE)
@pytest.mark.parametrize(("width", "lines"), [(10, 3), (16, 2), (20, 1)])
def test_different_names_have_different_labels(names, width, lines):
    labels = style.labels(names, width, lines)
    assert list(labels) == names
    assert len(set(labels.values())) == len(names)
    assert all(label.count("\n") < lines for label in labels.values())


def test_names_that_look_alike_are_shown_from_where_they_differ():
    labels = style.labels([*ALIKE["middle"][:2], "cats"], 20)
    assert list(labels.values()) == ["…ills, pho…he winter", "…alls, pho…he winter", "cats"]


def test_file_in_place_of_the_folder_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "pictures").write_text("mine")
    with pytest.raises(
        RunError,
        match=r"^cannot write .*curves\.jpg: .*; free space, or give another run folder$",
    ):
        run_report.class_rows({"cats": []}, tmp_path / "pictures" / "curves.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]

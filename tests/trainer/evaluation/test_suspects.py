"""Labels that look wrong: the method on drawn features, and the whole command on drawn pictures."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from tests.trained_model import draw, load_examples, logged, write_pictures
from trainer.config import Config
from trainer.data.ledger import LeftOut
from trainer.data.splits import ledger_file
from trainer.errors import DataError, WeightsError
from trainer.evaluation import suspects
from trainer.evaluation.suspects import find, leave_one_out, rank


def clusters(counts, seed=0):
    """Features of classes of so many pictures, and their labels."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = generator.uniform(0, 1, (len(counts), 20))
    return centres[labels] + generator.normal(0, 0.15, (len(labels), 20)), labels


def test_answers_are_those_of_a_fit_without_the_picture(monkeypatch):
    monkeypatch.setattr(suspects, "_RIDGES", (0.5,))
    features, labels = clusters([8, 5, 12])
    answers = leave_one_out(features, labels, 3)

    x = features / np.linalg.norm(features, axis=1, keepdims=True)
    weights = 1 / (3 * np.bincount(labels)[labels])
    centred = x - weights @ x
    ridge = 0.5 * np.trace(centred.T @ (centred * weights[:, None])) / x.shape[1]
    for left in (0, 9, 24):
        # The intercept is not shrunk: a column of ones without ridge.
        ones = np.hstack([x, np.ones((len(x), 1))])
        kept = np.where(np.arange(len(x)) == left, 0, weights)[:, None]
        shrink = ridge * np.diag([1.0] * x.shape[1] + [0.0])
        slopes = np.linalg.solve(
            ones.T @ (ones * kept) + shrink, ones.T @ (np.eye(3)[labels] * kept)
        )
        np.testing.assert_allclose(answers[left], ones[left] @ slopes, atol=1e-9)


def test_planted_labels_come_first_whatever_the_size_of_their_class():
    features, labels = clusters([300, 40, 80])
    planted = np.array([3, 100, 250, 310, 330, 350, 400])
    wrong = labels.copy()
    wrong[planted] = (labels[planted] + 1) % 3
    order, others, margins = rank(features, wrong, 3)
    assert set(order[: len(planted)]) == set(planted)
    np.testing.assert_array_equal(others[planted], labels[planted])
    assert (margins > 0).sum() == len(planted)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """What the command prints and writes for pictures of which three lie in a wrong folder."""
    base = tmp_path_factory.mktemp("suspects")
    folder = write_pictures(base / "pictures", per_class=40)
    (folder / "birds & <b>").mkdir()
    for number in range(3):
        (folder / "birds & <b>" / f"{number}.jpg").write_bytes(draw("birds", number))
    for number in range(100, 106):
        (folder / "cats" / f"a dog  {number}.jpg").write_bytes(draw("dogs", number))
    arguments = [
        "suspects",
        str(folder),
        "--base_weights=none",
        "--image_size=32",
        f"--cache_dir={base / 'cache'}",
        f"--out={base / 'new' / 'sheet.html'}",
    ]
    run = [sys.executable, "-m", "trainer.data", *arguments]
    ended = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    again = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
    return folder, ended.stdout.splitlines(), base / "new", again


def test_command_lists_judged_pictures_whose_label_looks_wrong(command):
    folder, printed, out, _ = command
    lines = (out / "sheet.txt").read_text().splitlines()
    assert lines[0].startswith("# Delete the lines of pictures whose label is right; --exclude=")
    listed = [line.partition("  ")[::2] for line in lines[1:]]
    for digest, path in listed:
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == digest
    paths = [path for _, path in listed]
    # The features of random weights tell colours apart, and little else.
    assert any("a dog" in path for path in paths[:3])
    assert not any(path.startswith("birds") for path in paths)
    assert any(line.startswith("class birds & <b>: not judged; 2 training and") for line in printed)
    assert any(
        line.startswith(f"{len(paths)} of ") and line.endswith("look like another class")
        for line in printed
    )
    assert f"  {paths[0]}: cats, looks like dogs" in printed


def test_sheet_shows_the_listed_pictures_and_needs_no_other_file(command):
    _, _, out, _ = command
    page = (out / "sheet.html").read_text()
    listed = (out / "sheet.txt").read_text().splitlines()[1:]
    assert page.count('src="data:image/jpeg;base64,/9j/') == len(listed)
    assert "<b>cats</b>, looks like <b>dogs</b>" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_list_that_may_have_been_edited_is_not_written_over(command):
    _, _, out, again = command
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert f"{out / 'sheet.txt'}: exists already, and may have been edited" in again.stderr


def test_test_pictures_are_not_judged_and_of_a_frozen_split_what_is_excluded_is_left_out(tmp_path):
    folder = write_pictures(tmp_path / "pictures", per_class=20)
    frozen = load_examples(folder, 32)[1]
    frozen.write(ledger_file(folder))
    out = next(each for each in frozen.pictures if each.split == "test")
    (tmp_path / "list.txt").write_text(f"{out.path}\n")
    config = Config(
        data=str(folder),
        variant="transfer",
        image_size=32,
        base_weights="none",
        cache_dir=str(tmp_path / "cache"),
        exclude=str(tmp_path / "list.txt"),
    )
    with logged() as lines:
        found = find(config)
    reason = f"excluded by {config.exclude}"
    assert f"1 pictures {reason} (test 1), so the test set is another one" in lines
    ledger = found.data.ledger
    assert ledger.pictures == tuple(each for each in frozen.pictures if each != out)
    assert ledger.left_out == (LeftOut(out.path, reason),)
    assert found.judged == sum(each.split != "test" for each in frozen.pictures)
    assert all(suspect.picture.split != "test" for suspect in found.suspects)


def test_weights_that_cannot_be_had_are_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "pictures", per_class=10)
    config = {"data": str(folder), "variant": "transfer", "cache_dir": str(tmp_path / "cache")}
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with pytest.raises(DataError, match=r"cannot be reached .* use --base_weights=FILE") as raised:
        find(Config(**config))
    assert "\n" not in str(raised.value)
    with pytest.raises(WeightsError, match="--base_weights=gone.h5: there is no such file"):
        find(Config(**config, base_weights="gone.h5"))

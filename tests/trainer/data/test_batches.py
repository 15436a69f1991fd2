import numpy as np
import pytest

from tests.trained_model import draw, load_examples, write_pictures
from trainer.data.dataset import open_pictures, pixel_rows, scan
from trainer.devices import Part
from trainer.errors import DataError
from trainer.variants.preprocessing import decode_and_resize

SIZE, BATCH = 32, 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("input") / "pictures", per_class=30)


@pytest.fixture(scope="module")
def cached(folder):
    return load_examples(folder, SIZE)


@pytest.fixture(scope="module")
def uncached(folder):
    return load_examples(folder, SIZE, cached=False)


def contents(batches):
    return [tuple(part.numpy() for part in batch) for batch in batches]


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(part, twin)
        for batch, others in zip(one, other, strict=True)
        for part, twin in zip(batch, others, strict=True)
    )


def test_cached_and_uncached_batches_are_the_same(cached, uncached):
    options = {"seed": 3, "epoch": 2, "full": False}
    assert same(
        contents(cached[0].training_batches(BATCH, **options)),
        contents(uncached[0].training_batches(BATCH, **options)),
    )
    assert same(
        contents(cached[0].evaluation_batches("test", BATCH)),
        contents(uncached[0].evaluation_batches("test", BATCH)),
    )
    np.testing.assert_array_equal(
        cached[0].pictures(np.array([5, 2])), uncached[0].pictures(np.array([5, 2]))
    )


def test_order_depends_on_seed_and_epoch_alone(cached):
    def labels(seed, epoch):
        batches = cached[0].training_batches(BATCH, seed=seed, epoch=epoch, full=False)
        return np.concatenate(
            [pixels.numpy().sum(axis=(1, 2, 3)) for pixels, _, _ in batches]
        ).tolist()

    assert labels(1, 1) == labels(1, 1)
    assert labels(1, 1) != labels(1, 2)
    assert labels(1, 1) != labels(2, 1)
    assert sorted(labels(1, 1)) == sorted(labels(2, 2))


def test_full_last_batch_is_filled_with_pictures_of_weight_zero(cached):
    count = len(cached[0].indices("train"))
    assert count % BATCH, "the test needs an uneven last batch"
    batches = contents(cached[0].training_batches(BATCH, seed=0, epoch=0, full=True))
    assert {len(pixels) for pixels, _, _ in batches} == {BATCH}
    assert sum(weights.sum() for _, _, weights in batches) == count
    uneven = contents(cached[0].training_batches(BATCH, seed=0, epoch=0, full=False))
    assert sum(len(pixels) for pixels, _, _ in uneven) == count


@pytest.mark.parametrize("start", [0, 2])
def test_parts_of_two_workers_make_up_every_batch_replica_by_replica(cached, start):
    # Two replicas on each worker.
    options = {"seed": 0, "epoch": 1, "full": True, "start": start}
    whole = contents(cached[0].training_batches(8, **options))
    parts = [
        contents(cached[0].training_batches(8, **options, part=Part(first, first + 2, 4)))
        for first in (0, 2)
    ]
    assert len(parts[0]) == len(parts[1]) == 2 * len(whole)
    for step, batch in enumerate(whole):
        shared = [part[2 * step + replica] for part in parts for replica in (0, 1)]
        for column, expected in enumerate(batch):
            np.testing.assert_array_equal(
                np.concatenate([each[column] for each in shared]), expected
            )


def test_evaluation_gives_every_picture_once_in_the_order_of_the_ledger(cached):
    indices = cached[0].indices("validation")
    pixels = np.concatenate(
        [batch for batch, _ in contents(cached[0].evaluation_batches("validation", BATCH))]
    )
    np.testing.assert_array_equal(pixels, cached[0].pictures(indices))


@pytest.fixture
def damaged(tmp_path):
    folder = write_pictures(tmp_path / "damaged", per_class=25)
    (folder / "cats" / "text.jpg").write_text("this is a text")
    (folder / "cats" / "empty.jpg").write_bytes(b"")
    (folder / "cats" / "link.jpg").symlink_to("nowhere")
    (folder / "dogs" / "cut.jpg").write_bytes(draw("dogs", 0)[:400])
    return folder


def test_files_that_are_no_pictures_are_named_and_left_out(damaged):
    scanned = scan(open_pictures(damaged), SIZE, on_bad_image="skip")
    assert {file.path: file.reason for file in scanned.left_out} == {
        "cats/empty.jpg": "empty file",
        "cats/link.jpg": "not a regular file, or a broken link",
        "cats/text.jpg": "not a JPEG, PNG, GIF, BMP or WebP picture",
        "dogs/cut.jpg": (
            "truncated or damaged picture, or one of a format that TensorFlow does not decode"
        ),
    }
    assert sum(file.sha256 != "" for file in scanned.found) == 50


def test_rows_of_pixels_are_those_of_the_pictures_around_a_damaged_one(damaged):
    pictures = open_pictures(damaged)
    pixels = pixel_rows((len(pictures.found), SIZE, SIZE, 3), None)
    found = scan(pictures, SIZE, on_bad_image="skip", cache=pixels).found
    for file, row in zip(found, pixels, strict=True):
        expected = decode_and_resize(pictures.read(file.path), SIZE) if file.sha256 else 0
        np.testing.assert_array_equal(row, expected)


def test_files_that_are_no_pictures_stop_a_run_that_asks_for_it(damaged):
    with pytest.raises(DataError) as error:
        scan(open_pictures(damaged), SIZE, on_bad_image="fail")
    assert (
        str(error.value)
        == f"{damaged}/cats/empty.jpg: empty file (4 such files); fix or remove it, or use"
        " --on_bad_image=skip"
    )


def test_folder_of_nothing_but_rubbish_is_refused(tmp_path):
    for label in ("cats", "dogs"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.jpg").write_text("text")
    with pytest.raises(DataError, match="none of the 2 files is a picture that can be decoded"):
        scan(open_pictures(tmp_path), SIZE, on_bad_image="skip")


def test_balanced_weights_make_every_class_weigh_the_same_and_fill_up_with_nothing(tmp_path):
    folder = write_pictures(tmp_path / "uneven", per_class=30)
    for number in range(30, 70):
        (folder / "dogs" / f"{number}.jpg").write_bytes(draw("dogs", number))
    examples, _ = load_examples(folder, SIZE, class_weights="balanced")
    train = examples.indices("train")
    weights = np.concatenate(
        [
            weights
            for _, _, weights in contents(
                examples.training_batches(BATCH, seed=0, epoch=0, full=True)
            )
        ]
    )
    labels = np.concatenate(
        [
            labels
            for _, labels, _ in contents(
                examples.training_batches(BATCH, seed=0, epoch=0, full=True)
            )
        ]
    )
    assert weights.sum() == pytest.approx(len(train), rel=1e-5)
    assert weights[labels == 0].sum() == pytest.approx(weights[labels == 1].sum(), rel=1e-5)
    assert (weights == 0).sum() == -len(train) % BATCH
    assert examples.class_weights()["cats"] > 1 > examples.class_weights()["dogs"]

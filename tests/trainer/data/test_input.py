import numpy as np
import pytest

from tests.trained_model import draw, write_pictures
from trainer.data import ledger
from trainer.data.input import Examples, Part, scan
from trainer.errors import DataError

SIZE, BATCH = 32, 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("input") / "pictures", per_class=30)


def load(folder, free_bytes):
    found = ledger.find(folder)
    scanned = scan(folder, found, SIZE, on_bad_image="skip", free_bytes=free_bytes)
    frozen = ledger.freeze(found, scanned.sha256, scanned.left_out, protocol="given")
    return Examples(folder, frozen, found, scanned.pixels, SIZE), scanned


@pytest.fixture(scope="module")
def cached(folder):
    return load(folder, free_bytes=2**30)


@pytest.fixture(scope="module")
def uncached(folder):
    return load(folder, free_bytes=2**10)


def contents(batches):
    return [tuple(part.numpy() for part in batch) for batch in batches]


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(part, twin)
        for batch, others in zip(one, other, strict=True)
        for part, twin in zip(batch, others, strict=True)
    )


def test_pixels_are_kept_only_where_they_fit(cached, uncached):
    assert cached[1].pixels.shape == (60, SIZE, SIZE, 3)
    assert uncached[1].pixels is None
    assert cached[1].sha256 == uncached[1].sha256


def test_cached_and_uncached_batches_are_the_same(cached, uncached):
    options = {"seed": 3, "epoch": 2, "full": False}
    assert same(
        contents(cached[0].training_batches(BATCH, **options)), contents(uncached[0].training_batches(BATCH, **options))
    )
    assert same(
        contents(cached[0].evaluation_batches("test", BATCH)), contents(uncached[0].evaluation_batches("test", BATCH))
    )
    np.testing.assert_array_equal(cached[0].pictures(np.array([5, 2])), uncached[0].pictures(np.array([5, 2])))


def test_order_depends_on_seed_and_epoch_alone(cached):
    def labels(seed, epoch):
        batches = cached[0].training_batches(BATCH, seed=seed, epoch=epoch, full=False)
        return np.concatenate([pixels.numpy().sum(axis=(1, 2, 3)) for pixels, _, _ in batches]).tolist()

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
    parts = [contents(cached[0].training_batches(8, **options, part=Part(first, first + 2, 4))) for first in (0, 2)]
    assert len(parts[0]) == len(parts[1]) == 2 * len(whole)
    for step, batch in enumerate(whole):
        shared = [part[2 * step + replica] for part in parts for replica in (0, 1)]
        for column, expected in enumerate(batch):
            np.testing.assert_array_equal(np.concatenate([each[column] for each in shared]), expected)


def test_evaluation_gives_every_picture_once_in_the_order_of_the_ledger(cached):
    indices = cached[0].indices("validation")
    pixels = np.concatenate([batch for batch, _ in contents(cached[0].evaluation_batches("validation", BATCH))])
    np.testing.assert_array_equal(pixels, cached[0].pictures(indices))


@pytest.fixture
def damaged(tmp_path):
    folder = write_pictures(tmp_path / "damaged", per_class=25)
    (folder / "cats" / "text.jpg").write_text("this is a text")
    (folder / "cats" / "empty.jpg").write_bytes(b"")
    (folder / "dogs" / "cut.jpg").write_bytes(draw("dogs", 0)[:400])
    return folder


def test_files_that_are_no_pictures_are_named_and_left_out(damaged):
    _, scanned = load(damaged, free_bytes=2**30)
    assert {file.path: file.reason for file in scanned.left_out} == {
        "cats/empty.jpg": "empty file",
        "cats/text.jpg": "no JPEG, PNG, GIF, BMP or WebP picture",
        "dogs/cut.jpg": "truncated or damaged picture, or one of a kind that TensorFlow does not decode",
    }


def test_files_that_are_no_pictures_stop_a_run_that_asks_for_it(damaged):
    with pytest.raises(DataError) as error:
        scan(damaged, ledger.find(damaged), SIZE, on_bad_image="fail", free_bytes=2**30)
    assert str(error.value) == (
        f"{damaged}/cats/empty.jpg: empty file (3 such files); mend or remove it, or use --on_bad_image=skip"
    )


def test_folder_of_nothing_but_rubbish_is_refused(tmp_path):
    for label in ("cats", "dogs"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.jpg").write_text("text")
    with pytest.raises(DataError, match="none of the 2 files is a picture that can be decoded"):
        scan(tmp_path, ledger.find(tmp_path), SIZE, on_bad_image="skip", free_bytes=2**30)

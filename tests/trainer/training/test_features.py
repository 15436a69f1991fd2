import dataclasses
import functools
import resource
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trained_model import encode, give_statistics, load_examples, logged, write_pictures
from trainer.config import Config
from trainer.data.ledger import SPLITS
from trainer.devices import prepare
from trainer.errors import RunError
from trainer.training import features
from trainer.training.features import BACKENDS, BATCH, preferred_backends, split_backbone
from trainer.variants import HEADS
from trainer.variants.models import build, copy_variables, describe_layers, trainable_parameters
from trainer.variants.objective import Objective

SIZE, VIEWS, SEED, BATCH_SIZE = 32, 3, 5, 8


def make_model(size=SIZE, seed=0, head="notebook"):
    """A model with random weights whose features tell pictures apart, as its BatchNorm statistics
    fit the weights.
    """
    keras.utils.set_random_seed(seed)
    model = build("transfer", size, Objective(2), seed=seed, head=HEADS[head])
    give_statistics(model.get_layer(f"mobilenetv2_1.00_{size}"), pixels_of(64, size))
    return model


def pixels_of(count, size):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.float32)


def load(folder):
    return load_examples(folder, SIZE)


@pytest.fixture(scope="module", autouse=True)
def converted_once():
    """A backbone becomes XNNPACK's once here, as that takes two seconds."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(BACKENDS, "XNNPACK", functools.cache(BACKENDS["XNNPACK"]))
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures and their ledger."""
    return load(write_pictures(tmp_path_factory.mktemp("features") / "pictures", per_class=30))


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def extractor(model):
    return split_backbone(model)[0]


class Extraction:
    """Calls of `extract` with one cache folder, and what they said."""

    def __init__(self, pictures, extractor, folder):
        self.examples, self.ledger = pictures
        self.folder = folder
        self._extractor = extractor
        self.lines = []

    def __call__(self, extractor=None, ledger=None, views=VIEWS, seed=SEED):
        with logged(self.lines):
            return features.extract(
                self.examples,
                ledger or self.ledger,
                extractor or self._extractor,
                views=views,
                seed=seed,
                cache_folder=self.folder,
            )

    @property
    def files(self):
        return sorted(self.folder.iterdir())


@pytest.fixture
def extraction(pictures, extractor, tmp_path):
    """Extraction with an empty cache."""
    return Extraction(pictures, extractor, tmp_path / "cache" / "features")


@pytest.fixture(scope="module")
def first(pictures, extractor, tmp_path_factory):
    """Extraction that took place."""
    first = Extraction(pictures, extractor, tmp_path_factory.mktemp("cache"))
    first.extracted = first()
    return first


@pytest.fixture(scope="module")
def extracted(first):
    return first.extracted


@pytest.fixture
def cached(first, extraction):
    """Extraction whose cache holds what the first computed."""
    shutil.copytree(first.folder, extraction.folder)
    return extraction


def features_of(extracted, split):
    return np.concatenate([batch for batch, _ in extracted.evaluation_batches(split, BATCH_SIZE)])


def epoch_of(extracted, *, seed=1, epoch=0, full=False):
    return [
        tuple(part.numpy() for part in batch)
        for batch in extracted.training_batches(BATCH_SIZE, seed=seed, epoch=epoch, full=full)
    ]


@pytest.mark.parametrize(("name", "count"), [("notebook", 1280), ("multiscale", 1280 + 4 * 576)])
def test_head_after_extractor_is_the_whole_model(name, count):
    model = make_model(head=name)
    extractor, head = split_backbone(model)
    pixels = pixels_of(5, SIZE)
    np.testing.assert_allclose(
        head(extractor(pixels)), model(pixels, training=False), rtol=1e-5, atol=1e-5
    )
    assert extractor.output_shape == (None, count)
    # No augmentation: the same in training.
    np.testing.assert_array_equal(
        extractor(pixels, training=True), extractor(pixels, training=False)
    )


def test_training_the_head_trains_the_whole_model():
    model = make_model()
    before, parameters = describe_layers(model), (model.count_params(), trainable_parameters(model))
    extractor, head = split_backbone(model)
    assert {id(variable) for variable in head.trainable_variables} == {
        id(v) for v in model.trainable_variables
    }
    for variable in head.trainable_variables:
        variable.assign_add(tf.ones(variable.shape))
    pixels = pixels_of(3, SIZE)
    expected = head(extractor(pixels))
    np.testing.assert_allclose(model(pixels, training=False), expected, rtol=1e-5)
    published = build("transfer", SIZE, Objective(2), seed=1)
    copy_variables(model, published)
    np.testing.assert_allclose(published(pixels, training=False), expected, rtol=1e-5)
    assert (describe_layers(model), (model.count_params(), trainable_parameters(model))) == (
        before,
        parameters,
    )


@pytest.mark.parametrize("head", ["notebook", "multiscale"])
def test_backends_differ_from_keras_by_little(head):
    extractor, _ = split_backbone(make_model(head=head))
    for name, backend in BACKENDS.items():
        run = backend(extractor)
        for count in (BATCH, 3):
            pixels = pixels_of(count, SIZE)
            expected = extractor(pixels, training=False).numpy()
            assert expected.std() > 0.01, "the test needs features that tell pictures apart"
            np.testing.assert_allclose(run(pixels), expected, rtol=0, atol=2e-4, err_msg=name)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="this machine has a GPU")
def test_machine_without_gpu_uses_xnnpack(extractor):
    assert preferred_backends(extractor)[0] == "XNNPACK"


def test_model_under_a_strategy_can_be_split_and_run():
    devices = prepare(Config(logical_replicas=2))
    with devices.strategy.scope():
        model = make_model()
        extractor, head = split_backbone(model)
    pixels = pixels_of(2, SIZE)
    expected = model(pixels, training=False).numpy()
    np.testing.assert_allclose(head(BACKENDS["XNNPACK"](extractor)(pixels)), expected, atol=1e-3)
    assert {id(variable) for variable in head.trainable_variables} == {
        id(v) for v in model.trainable_variables
    }


@pytest.mark.parametrize("part", SPLITS)
def test_untouched_view_is_what_the_extractor_gives_in_the_order_of_the_ledger(
    part, pictures, extracted, extractor
):
    examples, _ = pictures
    pixels = examples.pictures(examples.indices(part)).astype(np.float32)
    np.testing.assert_allclose(
        features_of(extracted, part), extractor(pixels, training=False), rtol=0, atol=2e-4
    )
    labels = np.concatenate([batch for _, batch in extracted.evaluation_batches(part, BATCH_SIZE)])
    np.testing.assert_array_equal(labels, examples.labels(examples.indices(part)))


def test_epoch_has_every_training_picture_once_in_the_order_of_pixels(pictures, extracted):
    examples, _ = pictures
    on_pixels = [
        labels.numpy()
        for _, labels, _ in examples.training_batches(BATCH_SIZE, seed=1, epoch=2, full=False)
    ]
    epoch = epoch_of(extracted, epoch=2)
    for (values, labels, weights), expected in zip(epoch, on_pixels, strict=True):
        np.testing.assert_array_equal(labels, expected)
        assert values.shape == (len(labels), 1280)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(weights, np.ones(len(labels), np.float32))


def untouched_rows(extracted, epoch):
    """For every row of an epoch, the training picture whose untouched view it is, or -1."""
    untouched = features_of(extracted, "train")
    rows = np.concatenate([values for values, _, _ in epoch])
    same = (rows[:, np.newaxis] == untouched).all(axis=2)
    return np.where(same.any(axis=1), same.argmax(axis=1), -1)


def test_epochs_draw_views_by_seed_and_epoch_alone(extracted):
    drawn = [
        untouched_rows(extracted, epoch_of(extracted, seed=seed, epoch=epoch))
        for seed, epoch in [(1, 0), (1, 0), (1, 1), (2, 0)]
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert len({tuple(np.sort(rows)) for rows in drawn}) == 3
    share = np.mean([np.mean(rows >= 0) for rows in drawn])
    assert 1 / VIEWS - 0.15 < share < 1 / VIEWS + 0.15


def test_every_training_picture_has_views_of_its_own(pictures, extracted):
    count = len(pictures[0].indices("train"))
    seen = {
        values.tobytes()
        for epoch in range(20)
        for rows, _, _ in epoch_of(extracted, epoch=epoch)
        for values in rows
    }
    assert len(seen) == VIEWS * count


def test_augmented_views_are_of_the_picture_that_their_row_stands_for(extractor, tmp_path):
    # Pictures of one colour each look the same however they are turned.
    for number in range(48):
        file = tmp_path / "pictures" / ("cats", "dogs")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        colour = (number * 5, 250 - number * 5, 60 * (number % 4))
        file.write_bytes(encode(np.full((SIZE, SIZE, 3), colour, np.uint8), "PNG"))
    extracted = Extraction(load(tmp_path / "pictures"), extractor, tmp_path / "cache")()
    order = np.argsort(np.random.default_rng([1, 0]).permutation(len(extracted.indices("train"))))
    rows = np.concatenate([values for values, _, _ in epoch_of(extracted)])[order]
    np.testing.assert_allclose(rows, features_of(extracted, "train"), rtol=0, atol=1e-3)
    assert np.ptp(rows, axis=0).max() > 0.1, "the test needs pictures with features of their own"


def test_full_last_batch_is_filled_with_pictures_of_weight_zero(extracted):
    count = len(extracted.indices("train"))
    assert count % BATCH_SIZE, "the test needs an uneven last batch"
    epoch = epoch_of(extracted, full=True)
    assert {len(values) for values, _, _ in epoch} == {BATCH_SIZE}
    assert sum(weights.sum() for _, _, weights in epoch) == count
    assert int(
        extracted.training_batches(BATCH_SIZE, seed=0, epoch=0, full=True).cardinality()
    ) == len(epoch)


def test_second_run_finds_what_the_first_computed(first, cached):
    again = cached()
    assert cached.files == [cached.folder / first.files[0].name]
    for one, other in zip(epoch_of(again), epoch_of(first.extracted), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    what = f"features of 60 pictures, {VIEWS} views of each training picture: "
    fastest, *_ = preferred_backends(first._extractor)
    assert first.lines[0].startswith(f"{what}computed with {fastest}, ")
    assert cached.lines[0].startswith(f"{what}found in {cached.files[0]} (")


def other_order(ledger):
    return dataclasses.replace(ledger, pictures=tuple(reversed(ledger.pictures)))


def other_content(ledger):
    first, *rest = ledger.pictures
    return dataclasses.replace(
        ledger, pictures=(dataclasses.replace(first, sha256="0" * 64), *rest)
    )


def test_whatever_features_depend_on_changes_their_name(pictures, extractor):
    ledger = pictures[1]
    twice_as_large = make_model(size=2 * SIZE)
    split_backbone(twice_as_large)[0].set_weights(extractor.get_weights())
    same = {
        "ledger": ledger,
        "extractor": extractor,
        "views": [VIEWS, SEED, "light"],
    }
    keras.utils.set_random_seed(0)
    averaged, multiscale = (
        split_backbone(make_model(head=head))[0] for head in ("wide", "multiscale")
    )
    for other in (averaged, multiscale):
        other.set_weights(extractor.get_weights())
    rescaled = split_backbone(make_model())[0]
    rescaled.set_weights(extractor.get_weights())
    rescaled.get_layer("rescaling").scale = 0.5
    changes = {
        "nothing": {},
        "views": {"views": [VIEWS - 1, SEED, "light"]},
        "pooling": {"extractor": averaged},
        "layers": {"extractor": multiscale},
        "scaling": {"extractor": rescaled},
        "order": {"ledger": other_order(ledger)},
        "picture": {"ledger": other_content(ledger)},
        "weights": {"extractor": split_backbone(make_model(seed=1))[0]},
        "image size": {"extractor": split_backbone(twice_as_large)[0]},
    }
    names = {
        changed: features.cache_name(**{**same, **change}) for changed, change in changes.items()
    }
    assert len(set(names.values())) == len(changes), names
    assert features.cache_name(**same) == names["nothing"]
    # Another model of the same kind, whose layers have other names of their own.
    again = split_backbone(make_model())[0]
    again.set_weights(extractor.get_weights())
    assert features.cache_name(**same | {"extractor": again}) == names["nothing"]


def test_other_views_are_computed_when_the_seed_changes(cached, extracted):
    other = cached(seed=SEED + 1)
    assert "computed with" in cached.lines[0]
    assert len(cached.files) == 2
    np.testing.assert_array_equal(features_of(other, "train"), features_of(extracted, "train"))
    assert not np.array_equal(epoch_of(other)[0][0], epoch_of(extracted)[0][0])


def test_seeds_share_features_without_augmented_views(cached):
    # A rerun with another seed finds what is there; other views it does not.
    cached(views=1, seed=SEED)
    cached(views=1, seed=SEED + 1)
    assert "found in" in cached.lines[-1]
    before = len(cached.files)
    cached(views=2, seed=SEED)
    assert len(cached.files) == before + 1


def test_views_are_augmented_as_the_setting_says(pictures, extractor, tmp_path):
    light, strong = (
        features.extract(
            *pictures,
            extractor,
            views=2,
            seed=SEED,
            cache_folder=tmp_path,
            augmentation=augmentation,
        )
        for augmentation in ("light", "strong")
    )
    train = light.indices("train")
    np.testing.assert_array_equal(light.features(train), strong.features(train))
    rows = [np.concatenate([values for values, _, _ in epoch_of(one)]) for one in (light, strong)]
    assert not np.array_equal(*rows)


def test_half_precision_is_left_to_tensorflow_without_a_warning(pictures, tmp_path):
    model = build("transfer", SIZE, Objective(2), seed=0, precision="mixed_bfloat16")
    extraction = Extraction(pictures, split_backbone(model)[0], tmp_path / "cache")
    extraction(views=1)
    assert "computed with TensorFlow" in extraction.lines[-1]
    assert not [line for line in extraction.lines if "XNNPACK" in line]


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        lambda file: file.write_bytes(file.read_bytes()[:-50]),
        lambda file: file.write_bytes(b""),
    ],
    ids=["one bit", "truncated", "empty"],
)
def test_damaged_features_are_named_and_computed_again(damage, cached, extracted):
    file = cached.files[0]
    damage(file)
    again = cached()
    assert cached.lines[0] == f"features in {file} are damaged; they are computed again"
    assert "computed with" in cached.lines[1]
    assert cached.files == [file]
    for one, other in zip(epoch_of(again), epoch_of(extracted), strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_cache_that_cannot_be_written_is_refused_and_leaves_nothing(extraction):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As on a full disk, a write fails half-way.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(
            RunError,
            match=r"the feature cache cannot be used \(.*\); expected .*, with 0.7 MB free$",
        ):
            extraction()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert extraction.files == []


def test_cache_folder_that_is_a_file_is_refused(extraction):
    extraction.folder.parent.write_text("")
    with pytest.raises(RunError, match="the feature cache cannot be used"):
        extraction()

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.data import sample
from trainer.data.sample import draw, unseen_pictures, write_sample

COUNTS = {"train_per_class": 3, "validation_per_class": 2, "test_per_class": 1}


def contents(folder: Path):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "sample-2"
    write_sample(folder, seed=0, **COUNTS)
    return folder


def test_sample_has_the_layout_of_real_data(written):
    assert sorted(contents(written)) == [
        "test/cats/cat.5.jpg",
        "test/dogs/dog.5.jpg",
        *(
            f"train/{label}s/{label}.{number}.jpg"
            for label in ("cat", "dog")
            for number in range(3)
        ),
        *(
            f"validation/{label}s/{label}.{number}.jpg"
            for label in ("cat", "dog")
            for number in (3, 4)
        ),
    ]


def test_same_seed_draws_the_same_bytes_and_another_seed_others(written, tmp_path):
    write_sample(tmp_path / "same", seed=0, **COUNTS)
    write_sample(tmp_path / "other", seed=1, **COUNTS)
    assert contents(tmp_path / "same") == contents(written)
    assert not set(contents(tmp_path / "other").values()) & set(contents(written).values())


def test_no_picture_is_drawn_twice_and_unseen_ones_are_in_no_sample(written):
    unseen = unseen_pictures(seed=0, count_per_class=3)
    assert [label for label, _ in unseen] == ["cats"] * 3 + ["dogs"] * 3
    everything = [*contents(written).values(), *(encoded for _, encoded in unseen)]
    assert len({hashlib.sha256(encoded).digest() for encoded in everything}) == len(everything)


def test_sample_that_is_there_is_left_alone(written):
    before = contents(written)
    write_sample(written, seed=7, **COUNTS)
    assert contents(written) == before


def test_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    drawn = []

    def interrupt(*arguments):
        drawn.append(arguments)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return b""

    monkeypatch.setattr(sample, "_encoded", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "sample", **COUNTS)
    assert not list(tmp_path.iterdir())


def test_second_writer_at_the_same_time_accepts_what_the_first_one_drew(tmp_path, monkeypatch):
    encoded = sample._encoded

    def overtaken(*arguments):
        if not (tmp_path / "sample").is_dir():
            monkeypatch.setattr(sample, "_encoded", encoded)
            write_sample(tmp_path / "sample", **COUNTS)
        return encoded(*arguments)

    monkeypatch.setattr(sample, "_encoded", overtaken)
    write_sample(tmp_path / "sample", **COUNTS)
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]
    assert len(contents(tmp_path / "sample")) == 12


def test_sizes_and_shapes_vary(written):
    sizes = {Image.open(io.BytesIO(encoded)).size for encoded in contents(written).values()}
    assert len(sizes) > 6
    assert all(100 <= side <= 320 for size in sizes for side in size)
    assert any(width > 1.1 * height for width, height in sizes)
    assert any(height > 1.1 * width for width, height in sizes)


@pytest.mark.parametrize("number", range(5))
def test_only_head_and_tail_tell_the_classes_apart(number, monkeypatch):
    def pictures():
        return [
            draw(species, np.random.default_rng([6, number])).tobytes()
            for species in ("cats", "dogs")
        ]

    cat, dog = pictures()
    assert cat != dog
    for figures in (sample._HEADS, sample._TAILS):
        monkeypatch.setitem(figures, "dogs", figures["cats"])
    assert pictures() == [cat, cat]


def test_picture_is_covered_from_edge_to_edge():
    for number in range(10):
        pixels = np.asarray(draw("cats", np.random.default_rng([7, number])))
        assert pixels.mean(axis=(1, 2)).min() > 10
        assert pixels.mean(axis=(0, 2)).min() > 10


def test_mean_colour_does_not_tell_the_classes_apart():
    colours = {
        species: np.stack(
            [
                np.asarray(draw(species, np.random.default_rng([5, number])).resize((8, 8))).mean(
                    (0, 1)
                )
                for number in range(100)
            ]
        )
        for species in ("cats", "dogs")
    }
    centres = {species: means[:50].mean(0) for species, means in colours.items()}

    def nearest(colour):
        return min(centres, key=lambda species: np.linalg.norm(colour - centres[species]))

    right = [
        nearest(colour) == species for species, means in colours.items() for colour in means[50:]
    ]
    assert np.mean(right) < 0.65

import numpy as np
import pytest
from PIL import Image

from trainer.data import sample
from trainer.data.drawing import (
    Coat,
    Pen,
    curve,
    knots,
    limb,
    mirrored,
    mix,
    oval,
    paint_background,
    paint_foreground,
)
from trainer.data.sample import Animal, invent

WHITE, RED = (255, 255, 255), (200, 20, 20)
PLAIN = Coat(base=RED, marks=(0, 0, 0), pale=WHITE, pattern="plain", fluff=0.0)


def pen_on(image, origin=50 + 50j, unit=10, seed=0):
    return Pen(image, np.random.default_rng(seed), origin, unit)


def paper(side=100):
    return Image.new("RGB", (side, side), WHITE)


def drawn(image):
    """Which pixels are no longer white."""
    return (np.asarray(image) != 255).any(axis=2)


@pytest.mark.parametrize("closed", [True, False])
def test_curve_goes_through_its_knots(closed):
    knots = np.array([0, 2 + 1j, 3 - 1j, 1 - 2j])
    path = curve(knots, closed=closed)
    assert np.abs(path[:, None] - knots).min(axis=0) == pytest.approx(0, abs=1e-9)


def test_curve_through_even_knots_on_a_line_is_that_line():
    assert curve([0, 1, 2, 3], closed=False, steps=4) == pytest.approx(np.linspace(0, 3, 13))


def test_open_curve_ends_at_the_last_knot():
    path = curve([0, 1 + 1j, 3j], closed=False)
    assert (path[0], path[-1]) == (0, 3j)


def test_limb_is_as_thick_as_asked_at_both_ends():
    outline = limb([0, 5, 10], [4, 2])
    assert np.ptp(outline[np.abs(outline.real) < 0.1].imag) == pytest.approx(4)
    assert np.ptp(outline[np.abs(outline.real - 10) < 0.1].imag) == pytest.approx(2)


def test_mirrored_outline_changes_sides_only():
    assert mirrored(np.array([2 + 3j])) == -2 + 3j


def test_mix_of_colours_lies_between_them():
    assert mix((0, 100, 200), (100, 100, 0), 0.25) == (25, 100, 150)


def test_knots_are_read_as_they_are_written():
    assert knots("0 1-.5j 2j").tolist() == [0, 1 - 0.5j, 2j]


def test_points_are_placed_turned_and_scaled():
    pen = pen_on(paper(), origin=70 + 50j, unit=5j)
    assert pen.pixels(np.array([2 + 0j])) == [pytest.approx((70, 60))]


def test_fur_stays_inside_its_outline_and_is_darker_below():
    image = paper()
    pen_on(image).fur(oval(0, 2, 2), PLAIN)
    rows, columns = np.nonzero(drawn(image))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx(
        (30, 70, 30, 70), abs=1
    )
    assert drawn(image).sum() == pytest.approx(np.pi * 20**2, rel=0.05)
    assert image.getpixel((50, 66))[0] < image.getpixel((50, 38))[0]


def test_fur_beyond_the_edge_of_the_picture_is_cut_off():
    whole, corner = paper(), paper(50)
    pen_on(whole).fur(oval(0, 2, 2), PLAIN)
    pen_on(corner, origin=0j).fur(oval(0, 2, 2), PLAIN)
    assert corner.tobytes() == whole.crop((50, 50, 100, 100)).tobytes()


@pytest.mark.parametrize("pattern", ["stripes", "spots", "patches"])
def test_coat_pattern_leaves_marks_on_the_base(pattern):
    image = Image.new("RGB", (200, 200), WHITE)
    coat = Coat(base=(250, 200, 200), marks=(10, 10, 90), pale=WHITE, pattern=pattern, fluff=0.0)
    pen_on(image, 100 + 100j, 40).fur(oval(0, 2, 2), coat)
    bluish = np.asarray(image)[..., 2].astype(int) > np.asarray(image)[..., 0].astype(int) + 20
    assert 0.02 < bluish[drawn(image)].mean() < 0.9


@pytest.mark.parametrize("species", ["cats", "dogs"])
@pytest.mark.parametrize("pose", range(len(sample._POSES)))
def test_pose_fills_most_of_its_box_on_every_side(species, pose):
    start, end = knots(sample._POSES[pose].box)
    image = paper(400)
    animal = invent(species, np.random.default_rng(pose))
    sample.draw_pose(pen_on(image, 150 + 150j, 50), animal, pose)
    rows, columns = np.nonzero(drawn(image))
    reached = (columns.min() - 150, rows.min() - 150, columns.max() - 150, rows.max() - 150)
    box = (start.real, start.imag, end.real, end.imag)
    assert np.divide(reached, 50) == pytest.approx(box, abs=1.1)


def test_same_generator_invents_the_same_animal_and_draws_the_same_pixels():
    pictures = []
    for _ in range(2):
        image, generator = paper(), np.random.default_rng(3)
        frame = Pen(image, generator, 0, image.height)
        paint_background(frame)
        animal = invent("dogs", generator)
        sample.draw_pose(Pen(image, generator, 50 + 30j, 20), animal, 1)
        paint_foreground(frame)
        pictures.append(image.tobytes())
    assert pictures[0] == pictures[1]


def test_species_share_palette_collars_and_patterns():
    animals: dict[str, list[Animal]] = {
        species: [invent(species, np.random.default_rng([1, number])) for number in range(300)]
        for species in ("cats", "dogs")
    }
    for trait in (
        lambda animal: animal.coat.base,
        lambda animal: animal.coat.pattern,
        lambda animal: animal.collar,
        lambda animal: animal.asleep,
    ):
        assert {trait(animal) for animal in animals["cats"]} == {
            trait(animal) for animal in animals["dogs"]
        }
    assert {animal.ears for animal in animals["cats"]} == {"cats"}
    assert {animal.ears for animal in animals["dogs"]} == {"up", "folded", "hanging"}


def test_background_covers_the_whole_picture():
    for seed in range(10):
        image = Image.new("RGB", (160, 100), (1, 2, 3))
        paint_background(pen_on(image, 0, image.height, seed))
        assert not (np.asarray(image) == (1, 2, 3)).all(axis=2).any()

import numpy as np
import pytest
from PIL import Image

from trainer.data import sample
from trainer.data.drawing import Pen, knots, pattern, smooth, solid

WHITE, RED = (255, 255, 255), (200, 20, 20)
SQUARE = "-1-1j! 1-1j! 1+1j! -1+1j!;"
ROUND = "-2-2j 2-2j 2+2j -2+2j;"


def paper(side=100):
    return Image.new("RGB", (side, side), WHITE)


def pen_on(image, origin=50 + 50j, unit=10, tufts=0.0):
    skins = {
        "coat": Image.new("RGB", image.size, RED),
        **dict.fromkeys(("pale", "dark"), Image.new("RGB", image.size, (90, 90, 90))),
        **dict.fromkeys(("eye", "whisker", "cloth"), (0, 0, 0)),
    }
    return Pen(image, np.random.default_rng(0), skins, origin, unit, tufts)


def drawn(image):
    """Which pixels are no longer white."""
    return (np.asarray(image) != 255).any(axis=2)


def box(image):
    """From where to where, left and right, top and bottom, something is drawn."""
    rows, columns = np.nonzero(drawn(image))
    return columns.min(), columns.max(), rows.min(), rows.max()


def test_knots_are_read_as_they_are_written_and_corners_twice():
    assert knots("0 1-.5j! 2j").tolist() == [0, 1 - 0.5j, 1 - 0.5j, 2j]


def test_curve_touches_the_lines_between_its_knots_in_the_middle():
    points = np.array([0, 2 + 1j, 3 - 1j, 1 - 2j])
    middles = (points + np.roll(points, 1)) / 2
    assert np.abs(smooth(points)[:, None] - middles).min(axis=0) == pytest.approx(0, abs=1e-9)


def test_curve_of_four_knots_around_zero_is_nearly_a_circle():
    radius = np.abs(smooth(knots("-1-1j 1-1j 1+1j -1+1j")))
    assert (radius.min(), radius.max()) == pytest.approx((1, 1), abs=0.07)


def test_curve_through_corners_is_the_straight_outline():
    edge = smooth(knots(SQUARE.strip(";")))
    assert np.maximum(np.abs(edge.real), np.abs(edge.imag)) == pytest.approx(1)
    assert set(knots(SQUARE.strip(";")).tolist()) <= set(edge.tolist())


def test_parts_are_placed_turned_and_scaled():
    image = paper()
    pen_on(image, unit=10j).at(2, 2).draw("red -1! 1! 1+.5j! -1+.5j!;")
    assert box(image) == pytest.approx((40, 50, 50, 90), abs=4)


def test_later_parts_cover_earlier_ones_and_colours_are_flat():
    image = paper()
    pen_on(image).draw(f"blue {ROUND} lime {SQUARE}")
    assert sorted(colour for _, colour in image.getcolors()) == [
        (0, 0, 255),
        (0, 255, 0),
        WHITE,
    ]
    assert image.getpixel((50, 50)) == (0, 255, 0)


def test_both_draws_the_mirror_image_too():
    image = paper()
    pen_on(image).draw("red both 1-1j! 3-1j! 3+1j! 1+1j!;")
    assert box(image) == pytest.approx((20, 80, 40, 60), abs=3)
    assert not drawn(image)[:, 46:54].any()


def test_what_is_in_front_moves_as_the_head_turns_and_what_is_at_its_edge_does_not():
    def middle(figure, turn):
        image = paper()
        pen_on(image, unit=20).draw(figure, turn)
        left, right, _, _ = box(image)
        return (left + right) / 2

    nose, ear = "red -.1-.1j .1-.1j .1+.1j -.1+.1j;", "red .9-.9j 1.1-.9j 1.1-.7j .9-.7j;"
    assert middle(nose, 0.4) - middle(nose, 0) == pytest.approx(8, abs=1)
    assert middle(ear, 0.4) == middle(ear, 0)


def test_fur_stays_inside_its_outline_and_is_darker_below():
    image = paper()
    pen_on(image).draw(f"coat {ROUND}")
    assert box(image) == pytest.approx((30, 70, 30, 70), abs=4)
    assert drawn(image).sum() == pytest.approx(np.pi * 20**2, rel=0.2)
    assert image.getpixel((50, 66))[0] < image.getpixel((50, 38))[0]


def test_tufts_make_the_edge_of_fur_ragged_and_that_of_nothing_else():
    pictures = {}
    for skin in ("coat", "red"):
        for tufts in (0.0, 0.2):
            image = paper()
            pen_on(image, tufts=tufts).draw(f"{skin} {ROUND}")
            pictures[skin, tufts] = image.tobytes()
    assert pictures["coat", 0.0] != pictures["coat", 0.2]
    assert pictures["red", 0.0] == pictures["red", 0.2]


def test_fur_beyond_the_edge_of_the_picture_is_cut_off():
    whole, corner = paper(), paper(50)
    pen_on(whole).draw(f"coat {ROUND}")
    pen_on(corner, origin=0j).draw(f"coat {ROUND}")
    assert corner.tobytes() == whole.crop((50, 50, 100, 100)).tobytes()


@pytest.mark.parametrize("cell", sample._MARKS)
def test_pattern_leaves_marks_on_the_base(cell):
    base, marks = np.array([250.0, 200, 200]), np.array([10.0, 10, 90])
    skin = pattern(np.random.default_rng(0), (200, 120), base, marks, cell * 40)
    assert skin.size == (200, 120)
    counts = {colour: count for count, colour in skin.getcolors()}
    assert set(counts) == {solid(base), solid(marks)}
    assert 0.02 < counts[solid(marks)] / (200 * 120) < 0.9


@pytest.mark.parametrize("species", ["cats", "dogs"])
@pytest.mark.parametrize("pose", sample._POSES)
def test_pose_fills_most_of_its_box_on_every_side(species, pose):
    (start, end), (_, tail, body) = knots(pose[0]), pose
    image = paper(400)
    sample.draw_animal(pen_on(image, 150 + 150j, 50), species, tail, body)
    asked = (start.real, end.real, start.imag, end.imag)
    assert np.divide(np.subtract(box(image), 150), 50) == pytest.approx(asked, abs=1.1)

import os

import pytest

from serving.client.errors import UnreadablePicture
from serving.predict_inputs import find_pictures


def test_folder_gives_its_pictures_recursively_in_order(tmp_path):
    for name in (
        "b.PNG",
        "a.jpg",
        "notes.txt",
        "sub/c.webp",
        "sub/g.JFIF",
        "more/d.jpeg",
        "more/deep/e.bmp",
        "more/f.gif",
        "jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    pairs = list(find_pictures([str(tmp_path)]))
    assert all(path == picture for path, picture in pairs)
    found = [os.path.relpath(path, tmp_path) for path, _ in pairs]
    names = ["a.jpg", "b.PNG", "more/d.jpeg", "more/f.gif", "more/deep/e.bmp"]
    names += ["sub/c.webp", "sub/g.JFIF"]
    assert found == names


def test_files_are_taken_as_they_are_named_in_the_order_given(tmp_path):
    paths = [str(tmp_path / "missing.jpg"), "./b.txt"]
    assert list(find_pictures(paths)) == [(path, path) for path in paths]


def test_folder_without_pictures_is_an_error_of_its_own(tmp_path):
    (tmp_path / "notes.txt").touch()
    ((path, error),) = find_pictures([str(tmp_path)])
    assert path == str(tmp_path)
    assert isinstance(error, UnreadablePicture)
    assert "no picture in this folder: expected files ending in .jpg" in str(error)


def test_folder_that_cannot_be_read_is_an_error_and_the_rest_goes_on(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.jpg").touch()
    scan = os.scandir

    # Permissions do not stop root, under whom containers run tests.
    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    picture, (path, error) = find_pictures([str(tmp_path)])
    assert picture == (str(tmp_path / "a.jpg"),) * 2
    assert path == str(tmp_path / "locked")
    assert str(error) == "the folder cannot be read: Permission denied"


def test_pictures_are_found_one_at_a_time(tmp_path):
    (tmp_path / "a.jpg").touch()
    found = find_pictures(str(tmp_path) for _ in iter(int, 1))
    assert next(found) == next(found) == (str(tmp_path / "a.jpg"),) * 2


@pytest.mark.parametrize("name", ["a.jpg", "pictures.jpg/a.jpg"])
def test_suffix_of_a_folder_does_not_make_it_a_picture(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert [path for path, _ in find_pictures([str(tmp_path)])] == [str(path)]


def test_pattern_gives_what_it_matches_and_searches_folders_that_it_matches(tmp_path):
    for name in ("b.jpg", "a.jpg", "a.txt", "sub/c.jpg", "sub/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def found(pattern):
        return [
            os.path.relpath(path, tmp_path)
            for path, picture in find_pictures([f"{tmp_path}/{pattern}"])
            if path == picture
        ]

    assert found("*") == ["a.jpg", "a.txt", "b.jpg", "sub/c.jpg"]
    assert found("?.jpg") == ["a.jpg", "b.jpg"]
    assert found("**/*.jpg") == ["a.jpg", "b.jpg", "sub/c.jpg"]
    # Each file by itself, and not once more with its folder.
    assert found("**") == ["a.jpg", "a.txt", "b.jpg", "sub/c.jpg", "sub/notes.txt"]


def test_name_that_looks_like_a_pattern_is_that_of_the_file_where_there_is_one(tmp_path):
    (tmp_path / "a[1].jpg").touch()
    (tmp_path / "a1.jpg").touch()
    assert list(find_pictures([f"{tmp_path}/a[1].jpg"])) == [(f"{tmp_path}/a[1].jpg",) * 2]


def test_pattern_that_matches_nothing_is_an_error_of_its_own(tmp_path):
    ((path, error),) = find_pictures([f"{tmp_path}/*.jpg"])
    assert path == f"{tmp_path}/*.jpg"
    assert str(error).startswith("nothing matches this pattern")


def test_link_to_a_folder_inside_is_not_followed(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "back").symlink_to(tmp_path)
    assert list(find_pictures([str(tmp_path)])) == [(f"{tmp_path}/a.jpg",) * 2]

import http.server
import shutil
import threading
import zipfile
from functools import partial

import pytest
from google.cloud import storage

from tests.trained_model import draw, write_pictures
from trainer.data.ledger import find
from trainer.data.sources import pictures_folder, unpack, weights_file
from trainer.errors import DataError, WeightsError


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        del arguments


@pytest.fixture
def web(tmp_path):
    """A folder that is served, and its address."""
    folder = tmp_path / "web"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def archive(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def test_cats_and_dogs_is_downloaded_and_unpacked_once(web, tmp_path):
    folder, address = web
    write_pictures(tmp_path / "top" / "cats_and_dogs_filtered" / "train", per_class=3)
    shutil.make_archive(str(folder / "set"), "zip", tmp_path / "top")
    downloads = tmp_path / "downloads"
    unpacked = pictures_folder("cats_and_dogs", downloads, cats_and_dogs_url=f"{address}/set.zip")
    assert len(find(unpacked)) == 6
    (folder / "set.zip").unlink()
    assert (
        pictures_folder("cats_and_dogs", downloads, cats_and_dogs_url=f"{address}/set.zip")
        == unpacked
    )


def test_cats_and_dogs_without_network_says_what_to_do(tmp_path):
    with pytest.raises(
        DataError, match="fetch it where there is a network, unpack it, and use --data=FOLDER"
    ):
        pictures_folder("cats_and_dogs", tmp_path, cats_and_dogs_url="http://127.0.0.1:9/set.zip")


def link(name, target):
    member = zipfile.ZipInfo(name)
    member.external_attr = 0o120777 << 16
    return member, target


@pytest.mark.parametrize(
    "members",
    [
        [("top/1.jpg", b"1"), ("../outside.jpg", b"2")],
        [("top/1.jpg", b"1"), ("/tmp/outside.jpg", b"2")],  # noqa: S108
        [("top/1.jpg", b"1"), link("top/link", "/etc/passwd")],
    ],
)
def test_zip_whose_member_would_leave_the_folder_is_refused_whole(tmp_path, members):
    with pytest.raises(DataError, match="would leave the folder; nothing unpacked"):
        unpack(archive(tmp_path / "set.zip", members), tmp_path / "set")
    assert [file.name for file in tmp_path.iterdir()] == ["set.zip"]


def test_damaged_zip_is_removed_so_that_the_next_run_fetches_it_again(tmp_path):
    whole = archive(tmp_path / "set.zip", [("top/1.jpg", draw("cats", 1))])
    whole.write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(DataError, match="damaged .*; it was removed, run the command again"):
        unpack(whole, tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_pictures_in_a_bucket_are_fetched(bucket, tmp_path):
    with storage.Client(project="test") as client:
        for name in ("pictures/cats/1.jpg", "pictures/dogs/2.jpg", "pictures/dogs/notes.txt"):
            client.bucket(bucket).blob(name).upload_from_string(draw("cats", 1))
    folder = pictures_folder(f"gs://{bucket}/pictures", tmp_path)
    assert [file.path for file in find(folder)] == ["cats/1.jpg", "dogs/2.jpg"]


def test_folder_is_used_where_it_is(tmp_path):
    assert pictures_folder(str(tmp_path), tmp_path / "downloads") == tmp_path


def test_imagenet_weights_of_the_picture_size_are_downloaded_once(web, tmp_path):
    folder, address = web
    for size in (160, 224):
        name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{size}_no_top.h5"
        (folder / name).write_text(str(size))
    for image_size, expected in ((160, "160"), (224, "224"), (100, "224")):
        assert (
            weights_file(
                "imagenet", image_size, tmp_path / "downloads", imagenet_url=address
            ).read_text()
            == expected
        )


def test_weights_in_a_bucket_are_fetched(bucket, tmp_path):
    with storage.Client(project="test") as client:
        client.bucket(bucket).blob("weights/w.h5").upload_from_string(b"weights")
    assert weights_file(f"gs://{bucket}/weights/w.h5", 160, tmp_path).read_bytes() == b"weights"


def test_imagenet_weights_without_network_say_what_to_do(tmp_path):
    with pytest.raises(
        DataError, match="use --base_weights=FILE, or train with --base_weights=none"
    ):
        weights_file("imagenet", 160, tmp_path, imagenet_url="http://127.0.0.1:9")


def test_weights_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        WeightsError, match="there is no such file; expected imagenet, none, a .h5 file or gs://…"
    ):
        weights_file(str(tmp_path / "none.h5"), 160, tmp_path)
    assert weights_file("none", 160, tmp_path) is None

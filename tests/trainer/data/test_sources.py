"""From names to folders and files: drawn, downloaded, fetched."""

import http.server
import shutil
import threading
import zipfile
from contextlib import contextmanager
from functools import partial

import pytest
from google.cloud import storage

from tests.trained_model import draw, write_pictures
from trainer.config import Config
from trainer.data.dataset import open_pictures
from trainer.data.layout import find
from trainer.data.ledger import read_exclusions
from trainer.data.sources import backbone_weights, download, pictures_folder, require
from trainer.errors import DataError, WeightsError
from whisker_ml.errors import DiskError


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


@pytest.mark.parametrize("damage", ["flipped", "encrypted", "unknown method", "cut"])
def test_damaged_archive_is_one_line_and_leaves_nothing(web, tmp_path, damage):
    path = web[0] / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("set/cats/1.jpg", bytes(range(256)) * 40)
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    if damage == "flipped":
        content[60] ^= 255
    elif damage == "encrypted":
        content[6] |= 1
        content[central + 8] |= 1
    elif damage == "unknown method":
        content[8] = content[central + 10] = 98
    else:
        del content[central + 5 :]
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"set.zip: sent a damaged zip .*; run the command again"):
        pictures_folder("cats_and_dogs", tmp_path / "new", cats_and_dogs_url=f"{web[1]}/set.zip")
    assert list((tmp_path / "new").iterdir()) == []


def test_cats_and_dogs_is_downloaded_and_unpacked_once(web, tmp_path):
    folder, address = web
    write_pictures(tmp_path / "top" / "cats_and_dogs_filtered" / "train", per_class=3)
    shutil.make_archive(str(folder / "set"), "zip", tmp_path / "top")
    downloads = tmp_path / "downloads"
    unpacked = pictures_folder("cats_and_dogs", downloads, cats_and_dogs_url=f"{address}/set.zip")
    assert len(find(unpacked).found) == 6
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


def test_member_of_a_zip_lands_in_the_folder_or_nowhere(web, tmp_path):
    top = "cats_and_dogs_filtered"
    with zipfile.ZipFile(web[0] / "set.zip", "w") as file:
        for name, content in (
            (f"{top}/1.jpg", b"1"),
            ("../outside.jpg", b"2"),
            (f"{tmp_path}/outside.jpg", b"3"),
            link(f"{top}/link", "/etc/passwd"),
        ):
            file.writestr(name, content)
    downloads = tmp_path / "new" / "downloads"
    folder = pictures_folder("cats_and_dogs", downloads, cats_and_dogs_url=f"{web[1]}/set.zip")
    assert [file.name for file in downloads.iterdir()] == [top]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        "1.jpg": b"1",
        "link": b"/etc/passwd",
    }
    assert not (folder / "link").is_symlink()
    assert not list(tmp_path.rglob("outside.jpg"))


def test_pictures_in_a_bucket_are_fetched(bucket, tmp_path):
    with storage.Client(project="test") as client:
        for name in ("pictures/cats/1.jpg", "pictures/dogs/2.jpg", "pictures/dogs/notes.txt"):
            client.bucket(bucket).blob(name).upload_from_string(draw("cats", 1))
    folder = pictures_folder(f"gs://{bucket}/pictures", tmp_path)
    assert [file.path for file in find(folder).found] == ["cats/1.jpg", "dogs/2.jpg"]


def test_list_of_exclusions_may_be_in_a_bucket_and_is_refused_early_where_it_is_gone(bucket):
    with storage.Client(project="test") as client:
        client.bucket(bucket).blob("list.txt").upload_from_string("# no\ncats/1.jpg\n")
    require("sample", "folders", f"gs://{bucket}/list.txt")
    assert read_exclusions(f"gs://{bucket}/list.txt") == {"cats/1.jpg": "cats/1.jpg"}
    with pytest.raises(DataError, match="--exclude=/gone.txt: cannot be read .No such file"):
        require("sample", "folders", "/gone.txt")


@pytest.mark.parametrize("where", ["bucket", "here"])
def test_csv_may_name_pictures_in_a_bucket(bucket, tmp_path, where):
    pictures = {f"set/a/{label}.jpg": draw(label, 1) for label in ("cats", "dogs")}
    base = f"gs://{bucket}/set/" if where == "here" else ""
    rows = f"path,label\n{base}a/cats.jpg,cats\n{base}a/dogs.jpg,dogs\n"
    with storage.Client(project="test") as client:
        for name, content in {**pictures, "set/labels.csv": rows.encode()}.items():
            client.bucket(bucket).blob(name).upload_from_string(content)
    (tmp_path / "labels.csv").write_text(rows)
    data = f"gs://{bucket}/set/labels.csv" if where == "bucket" else str(tmp_path / "labels.csv")
    opened = open_pictures(pictures_folder(data, tmp_path / "downloads"))
    assert [file.label for file in opened.found] == ["cats", "dogs"]
    assert [opened.read(file.path) for file in opened.found] == list(pictures.values())


def test_csv_cannot_lead_out_of_its_bucket(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("gs://bucket/../../elsewhere.jpg,cats\n")
    with pytest.raises(DataError, match="line 1 leads out of its bucket: gs://bucket/../../else"):
        pictures_folder(str(file), tmp_path / "downloads")


def test_folder_is_used_where_it_is(tmp_path):
    assert pictures_folder(str(tmp_path), tmp_path / "downloads") == tmp_path


def transfer(base_weights):
    return Config(variant="transfer", base_weights=base_weights)


def test_imagenet_weights_of_the_picture_size_are_downloaded_once(web, tmp_path):
    folder, address = web
    (folder / "mobilenet_v2").mkdir()
    for size in (160, 224):
        for width in ("1.0", "0.35"):
            name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{width}_{size}_no_top.h5"
            (folder / "mobilenet_v2" / name).write_text(f"{width} {size}")
    for backbone, image_size, expected in (
        ("mobilenet_v2", -1, "1.0 160"),
        ("mobilenet_v2", 224, "1.0 224"),
        ("mobilenet_v2", 100, "1.0 224"),
        ("mobilenet_v2_035", 160, "0.35 160"),
    ):
        config = Config(variant="transfer", backbone=backbone, image_size=image_size)
        found = backbone_weights(config, tmp_path / "downloads", imagenet_url=address)
        assert found is not None
        assert found.read_text() == expected


def test_weights_of_another_digest_than_keras_has_are_not_kept(web, tmp_path):
    folder, address = web
    config = Config(variant="transfer", backbone="convnext_tiny")
    (folder / "convnext").mkdir()
    (folder / "convnext" / "convnext_tiny_notop.h5").write_text("something else")
    with pytest.raises(DataError, match=r"sent a different file than expected \(digest d547c096"):
        backbone_weights(config, tmp_path, imagenet_url=address)
    assert not list(tmp_path.glob("*.h5*"))


def test_weights_in_a_bucket_are_fetched(bucket, tmp_path):
    with storage.Client(project="test") as client:
        client.bucket(bucket).blob("weights/w.h5").upload_from_string(b"weights")
    found = backbone_weights(transfer(f"gs://{bucket}/weights/w.h5"), tmp_path)
    assert found is not None
    assert found.read_bytes() == b"weights"


def test_imagenet_weights_without_network_say_what_to_do(tmp_path):
    with pytest.raises(
        DataError, match="use --base_weights=FILE, or train with --base_weights=none"
    ):
        backbone_weights(transfer("imagenet"), tmp_path, imagenet_url="http://127.0.0.1:9")


def test_weights_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        WeightsError, match="there is no such file; expected imagenet, none, a .h5 file or gs://…"
    ):
        backbone_weights(transfer(str(tmp_path / "none.h5")), tmp_path)
    assert backbone_weights(transfer("none"), tmp_path) is None
    assert backbone_weights(Config(variant="plain"), tmp_path) is None


CONTENT = bytes(range(256)) * 4096  # 1 MiB
INSTEAD = "use another file"


@contextmanager
def serve(*, break_after=None, resumable=True, status=200, shifted=0, length=None):
    """A web server that sends CONTENT; the first answers break off after so many bytes. Its ranges
    that do not begin at 0 begin `shifted` bytes late, and it says `length` of itself.
    """
    breaks = list(break_after or [])
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("Range"))
            if status != 200:
                self.send_error(status)
                return
            start = int(self.headers["Range"].removeprefix("bytes=")[:-1]) if resumable else 0
            start += shifted * bool(start)
            self.send_response(206 if resumable else 200)
            if resumable:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
                )
            self.send_header("Content-Length", length or str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start : start + breaks.pop(0)] if breaks else CONTENT[start:])

        def log_message(self, *arguments):
            del arguments

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/file.zip", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_file_is_fetched_once(tmp_path):
    with serve() as (url, asked):
        for _ in range(2):
            path = download(url, tmp_path / "new" / "file.zip", instead=INSTEAD)
    assert path.read_bytes() == CONTENT
    assert asked == ["bytes=0-"]
    assert [file.name for file in path.parent.iterdir()] == ["file.zip"]


def test_broken_connection_is_resumed_where_it_broke(tmp_path):
    with serve(break_after=[300_000, 200_000]) as (url, asked):
        path = download(url, tmp_path / "file.zip", instead=INSTEAD)
    assert path.read_bytes() == CONTENT
    assert asked == ["bytes=0-", "bytes=300000-", "bytes=500000-"]


def test_server_that_cannot_resume_sends_all_of_it_again(tmp_path):
    with serve(break_after=[300_000], resumable=False) as (url, _):
        path = download(url, tmp_path / "file.zip", instead=INSTEAD)
    assert path.read_bytes() == CONTENT


def test_range_that_begins_elsewhere_is_not_appended(tmp_path):
    with serve(break_after=[300_000], shifted=16) as (url, asked):
        path = download(url, tmp_path / "file.zip", instead=INSTEAD)
    assert path.read_bytes() == CONTENT
    assert asked == ["bytes=0-", "bytes=300000-", "bytes=0-"]


def test_length_that_is_no_number_is_not_believed(tmp_path):
    with serve(length="abc") as (url, _):
        path = download(url, tmp_path / "file.zip", instead=INSTEAD)
    assert path.read_bytes() == CONTENT


def test_connection_that_always_breaks_leaves_nothing(tmp_path):
    with serve(break_after=[1000] * 10) as (url, asked), pytest.raises(DataError) as error:
        download(url, tmp_path / "file.zip", instead=INSTEAD)
    assert "broke off 4 times; run the command again" in str(error.value)
    assert asked[-1] == "bytes=3000-"
    assert not list(tmp_path.iterdir())


def test_missing_file_and_silent_host_say_what_to_do_instead(tmp_path):
    with (
        serve(status=404) as (url, _),
        pytest.raises(DataError, match="the server answers 404 Not Found; use another file"),
    ):
        download(url, tmp_path / "file.zip", instead=INSTEAD)
    with pytest.raises(
        DataError, match=r"cannot be reached \(.*Connection refused\); use another file"
    ):
        download(url, tmp_path / "file.zip", instead=INSTEAD)
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with (
        serve() as (url, _),
        pytest.raises(DiskError, match="taken: File exists: choose another folder"),
    ):
        download(url, tmp_path / "taken" / "file.zip", instead=INSTEAD)

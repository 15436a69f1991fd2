import http.server
import threading
from contextlib import contextmanager

import pytest

from trainer.data.sources import download
from trainer.errors import DataError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
INSTEAD = "use another file"


@contextmanager
def serve(*, break_after=None, resumable=True, status=200):
    """A web server that sends CONTENT; the first answers break off after so many bytes."""
    breaks = list(break_after or [])
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("Range"))
            if status != 200:
                self.send_error(status)
                return
            start = (
                int(self.headers["Range"].removeprefix("bytes=")[:-1])
                if self.headers["Range"] and resumable
                else 0
            )
            if start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
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
            path = download(
                url, tmp_path / "new" / "file.zip", size_bytes=len(CONTENT), instead=INSTEAD
            )
    assert path.read_bytes() == CONTENT
    assert asked == [None]
    assert [file.name for file in path.parent.iterdir()] == ["file.zip"]


def test_broken_connection_is_resumed_where_it_broke(tmp_path):
    with serve(break_after=[300_000, 200_000]) as (url, asked):
        path = download(url, tmp_path / "file.zip", size_bytes=len(CONTENT), instead=INSTEAD)
    assert path.read_bytes() == CONTENT
    assert asked == [None, "bytes=300000-", "bytes=500000-"]


def test_part_of_an_earlier_call_is_gone_on_with(tmp_path):
    (tmp_path / "file.zip.part").write_bytes(CONTENT[:1000])
    with serve() as (url, asked):
        path = download(url, tmp_path / "file.zip", size_bytes=None, instead=INSTEAD)
    assert path.read_bytes() == CONTENT
    assert asked == ["bytes=1000-"]


def test_server_that_cannot_resume_sends_all_of_it_again(tmp_path):
    (tmp_path / "file.zip.part").write_bytes(b"x" * 1000)
    with serve(resumable=False) as (url, _):
        path = download(url, tmp_path / "file.zip", size_bytes=len(CONTENT), instead=INSTEAD)
    assert path.read_bytes() == CONTENT


def test_part_that_is_longer_than_the_file_is_begun_anew(tmp_path):
    (tmp_path / "file.zip.part").write_bytes(b"x" * (len(CONTENT) + 5))
    with serve() as (url, _):
        path = download(url, tmp_path / "file.zip", size_bytes=len(CONTENT), instead=INSTEAD)
    assert path.read_bytes() == CONTENT


def test_connection_that_always_breaks_keeps_what_has_arrived(tmp_path):
    with serve(break_after=[1000] * 10) as (url, _), pytest.raises(DataError) as error:
        download(url, tmp_path / "file.zip", size_bytes=len(CONTENT), instead=INSTEAD)
    assert "broken off 4 times; what has arrived is kept" in str(error.value)
    assert (tmp_path / "file.zip.part").read_bytes() == CONTENT[:4000]


def test_file_of_another_size_is_refused_and_removed(tmp_path):
    with (
        serve() as (url, _),
        pytest.raises(DataError, match="sent 1,048,576 bytes where 1,000,000 were expected"),
    ):
        download(url, tmp_path / "file.zip", size_bytes=1_000_000, instead=INSTEAD)
    assert not list(tmp_path.iterdir())


def test_missing_file_and_silent_host_say_what_to_do_instead(tmp_path):
    with (
        serve(status=404) as (url, _),
        pytest.raises(DataError, match="the server answers 404 Not Found; use another file"),
    ):
        download(url, tmp_path / "file.zip", size_bytes=None, instead=INSTEAD)
    with pytest.raises(
        DataError, match=r"cannot be reached \(.*Connection refused\); use another file"
    ):
        download(url, tmp_path / "file.zip", size_bytes=None, instead=INSTEAD)
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with (
        serve() as (url, _),
        pytest.raises(DataError, match="taken/file.zip.part: cannot be written"),
    ):
        download(url, tmp_path / "taken" / "file.zip", size_bytes=None, instead=INSTEAD)

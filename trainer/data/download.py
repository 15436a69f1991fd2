"""Files from the web: fetched once, resumed where a connection broke, measured before they
count.
"""

import http.client
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from trainer.errors import DataError

_TIMEOUT_S = 30.0
_ATTEMPTS = 4
_CHUNK_BYTES = 1 << 18
_BROKEN = (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException)


def download(url: str, path: Path, *, size_bytes: int | None, instead: str) -> Path:
    """Fetches a file, unless it is there already.

    What has arrived is kept as ``<name>.part``, so that the next call goes on where this one was
    cut off.

    Args:
        url: http(s) address.
        path: where the file ends up; its folder is made.
        size_bytes: what it must measure; None: what the server announces.
        instead: what to do where the network does not answer, as the end of a sentence.

    Returns:
        The path.

    Raises:
        DataError: the network does not answer, the file has another size, or it cannot be written.
    """
    if path.is_file() and size_bytes in (None, path.stat().st_size):
        return path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        expected = _fetch(url, part, size_bytes)
        received = part.stat().st_size
        if received != expected:
            part.unlink()
            raise DataError(
                f"{url}: sent {received:,} bytes where {expected:,} were expected; {instead}"
            )
        part.replace(path)
    except urllib.error.HTTPError as error:
        raise DataError(
            f"{url}: the server answers {error.code} {error.reason}; {instead}"
        ) from error
    except _BROKEN as error:
        raise DataError(
            f"{url}: cannot be reached ({getattr(error, 'reason', None) or error}); {instead}"
        ) from error
    except OSError as error:
        raise DataError(
            f"{part}: cannot be written ({error.strerror}); free space or give permission"
        ) from error
    return path


def _fetch(url: str, part: Path, size_bytes: int | None) -> int:
    """Appends to `part` until it is whole; gives up where an attempt brings nothing. Returns the
    size expected.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        have = part.stat().st_size if part.exists() else 0
        if have and have == size_bytes:
            return have
        try:
            expected = _receive(url, part, have, size_bytes)
            if part.stat().st_size >= expected:
                return expected
        except urllib.error.HTTPError as error:
            # 416: the range begins behind the end, so what is there belongs to another file.
            if error.code == 416:
                part.unlink()
            elif error.code < 500 or attempt == _ATTEMPTS:
                raise
        except _BROKEN:
            if attempt == _ATTEMPTS or not (part.exists() and part.stat().st_size > have):
                raise
    raise ConnectionError(
        f"broken off {_ATTEMPTS} times; what has arrived is kept, run the command again"
    )


def _receive(url: str, part: Path, have: int, size_bytes: int | None) -> int:
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
        start = have if response.status == 206 else 0
        expected = size_bytes or start + int(response.headers.get("Content-Length", 0))
        with (
            part.open("ab" if start else "wb") as file,
            tqdm(desc=part.stem, total=expected, initial=start, unit="B", unit_scale=True) as bar,
        ):
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
    return expected

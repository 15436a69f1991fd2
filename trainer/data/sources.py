"""From what `--data` and `--base_weights` name to a folder and a file on this machine."""

import csv
import difflib
import hashlib
import http.client
import io
import logging
import lzma
import os
import posixpath
import shutil
import stat
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

from trainer.config import Config
from trainer.data.layout import CSV_SUFFIXES, find, read_csv
from trainer.data.ledger import read_exclusions
from trainer.data.pictures import INDEX
from trainer.data.sample import write_sample
from trainer.data.splits import LEDGER_NAME
from trainer.errors import DataError, WeightsError
from trainer.variants import BACKBONES, VARIANTS
from whisker_ml import storage
from whisker_ml.files import BUCKET_SCHEME, is_address, parse_address, replacing
from whisker_ml.formats import SUFFIXES
from whisker_ml.terminal import progress

logger = logging.getLogger(__name__)

# The zip that TensorFlow's tutorials use: 2,000 training and 1,000 validation pictures.
CATS_AND_DOGS_URL = "https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip"
CATS_AND_DOGS_BYTES = 68_606_236

# Where keras.applications loads its weights from.
IMAGENET_URL = "https://storage.googleapis.com/tensorflow/keras-applications"

# What `--data` names without a folder.
NAMES = ("sample", "cats_and_dogs")
_PACKED = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")

_SAMPLE_SEED = 1

# What stands beside pictures, or holds them.
_FROZEN = (LEDGER_NAME, INDEX, ".tfrecord")


def pictures_folder(
    data: str, downloads: Path, *, cats_and_dogs_url: str = CATS_AND_DOGS_URL
) -> Path:
    """Finds, draws or fetches the pictures that `--data` names.

    Args:
        data: ``sample``, ``cats_and_dogs``, a folder, or ``gs://bucket/folder``.
        downloads: folder that keeps what is drawn or fetched, from run to run.
        cats_and_dogs_url: where the zip is.

    Raises:
        DataError: the network does not answer, or something else was sent.
        StorageError: the bucket cannot be read.
    """
    if data == "sample":
        folder = downloads / f"sample-{_SAMPLE_SEED}"
        _writable(downloads)
        write_sample(folder, seed=_SAMPLE_SEED)
        return folder
    if data == "cats_and_dogs":
        folder = downloads / "cats_and_dogs_filtered"
        if not folder.is_dir():
            archive = download(
                cats_and_dogs_url,
                downloads / "cats_and_dogs_filtered.zip",
                size_bytes=CATS_AND_DOGS_BYTES if cats_and_dogs_url == CATS_AND_DOGS_URL else None,
                instead="fetch it where there is a network, unpack it, and use --data=FOLDER",
            )
            unpack(archive, folder)
        return folder
    if is_address(data):
        name, prefix = parse_address(data)
        folder = downloads / "gs" / name / prefix
        if folder.suffix.lower() in CSV_SUFFIXES:
            storage.download_file(data, folder)
            return _with_pictures(folder, downloads, f"{BUCKET_SCHEME}{name}/{Path(prefix).parent}")
        storage.download_folder(data, folder, suffixes=(*SUFFIXES, *_FROZEN))
        return folder
    path = Path(data).expanduser()
    return _with_pictures(path, downloads) if path.is_file() else path


def require(data: str, classes: str, exclude: str = "") -> None:
    """Refuses what `--data` and `--exclude` cannot mean, before anything is started or written.

    Args:
        data: as `--data`.
        classes: as `trainer.data.layout.find` takes it.
        exclude: as `--exclude`.

    Raises:
        DataError: there is no such folder or CSV file on this machine, or it cannot be trained on;
            or the file that names pictures to leave out cannot be read.
    """
    if exclude and not is_address(exclude):
        read_exclusions(exclude)
    if not data:
        raise DataError("--data is empty; expected one folder of pictures per class")
    if data in NAMES or is_address(data):
        return
    if "://" in data:
        raise DataError(
            f"--data={data}: expected a folder on this machine, a CSV file, or gs://…; download it"
            " first"
        )
    path = Path(data).expanduser()
    if path.is_dir():
        if not (path / INDEX).exists():
            find(path, classes)
        return
    if path.is_file() and path.suffix.lower() in CSV_SUFFIXES:
        if not any(is_address(row) for _, row, _, _ in read_csv(path)):
            find(path, classes)
        return
    if path.is_file():
        packed = path.suffix.lower() in _PACKED or zipfile.is_zipfile(path)
        do = "unpack it and give the folder" if packed else "give its folder"
        raise DataError(
            f"--data={data}: is a file; expected a folder of class folders, or a CSV file with"
            f" path,label[,split]; {do}"
        )
    beside = [*NAMES]
    with suppress(OSError):
        beside += [str(path.parent / entry.name) for entry in path.parent.iterdir()]
    near = difflib.get_close_matches(str(path), beside, 1)
    raise DataError(
        f"--data={data}: there is no such folder; expected one folder of pictures per class"
        + (f"; did you mean {near[0]}?" if near else "")
    )


def _with_pictures(file: Path, downloads: Path, base: str = "") -> Path:
    """A CSV file whose pictures are on this machine: fetched, where they are in a bucket.

    Args:
        file: names pictures: relative to itself, or gs://….
        downloads: folder that keeps what is fetched.
        base: where relative paths are, if the file was fetched itself.

    Returns:
        The file, or a copy that names what was fetched.
    """
    rows = list(read_csv(file))
    local: dict[str, Path] = {}
    for number, path, _, _ in rows:
        if base or is_address(path):
            bucket, name = parse_address(path if is_address(path) else f"{base}/{path}")
            local[path] = Path(bucket, posixpath.normpath(name))
            if ".." in local[path].parts:
                raise DataError(f"--data={file}: line {number} leads out of its bucket: {path}")
    if not local:
        return file
    root = downloads / "gs"
    storage.download_files(
        {f"{BUCKET_SCHEME}{file.as_posix()}": root / file for file in local.values()}
    )
    digest = hashlib.sha256(os.fsencode(file.absolute())).hexdigest()[:12]
    copy = root / f"{file.stem}-{digest}.csv"
    with replacing(copy) as stream, io.TextIOWrapper(stream, "utf-8", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(("path", "label", "split"))
        for _, path, label, split in rows:
            if path not in local:
                raise DataError(
                    f"--data={file}: names {path} on this machine and others in a bucket; expected"
                    " one of the two"
                )
            writer.writerow((local[path].as_posix(), label, split))
    return copy


def backbone_weights(
    config: Config, downloads: Path, *, imagenet_url: str = IMAGENET_URL
) -> Path | None:
    """Finds or fetches the weights that a run starts from; None for random ones, or no backbone.

    Raises:
        DataError: the network does not answer, or something else was sent.
        WeightsError: there is no such file.
    """
    base_weights = config.base_weights
    if not VARIANTS[config.variant].backbone or base_weights == "none":
        return None
    if base_weights == "imagenet":
        row = BACKBONES[config.backbone]
        # As Keras does: the weights of the same picture size where there are any, else those of 224
        # pixels.
        size = config.image_size if config.image_size in row.weights_sizes else 224
        address = row.weights.format(size=size)
        return download(
            f"{imagenet_url}/{address}",
            downloads / posixpath.basename(address),
            size_bytes=None,
            digest=row.digest,
            instead=(
                "fetch the file where there is a network and use --base_weights=FILE, or train with"
                " --base_weights=none"
            ),
        )
    if is_address(base_weights):
        name, path = parse_address(base_weights)
        file = downloads / "gs" / name / path
        storage.download_file(base_weights, file)
        return file
    file = Path(base_weights).expanduser()
    if not file.is_file():
        raise WeightsError(
            f"--base_weights={base_weights}: there is no such file; expected imagenet, none, a .h5"
            " file or gs://…"
        )
    return file


# How a zip is said to be damaged, encrypted, or packed in a way that nobody here knows.
_DAMAGED = (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the one top folder of a zip as `folder`, all of it or nothing.

    Raises:
        DataError: it is no zip, or a member would land outside of the folder, or is no plain file.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as staging:
        try:
            with zipfile.ZipFile(archive) as members:
                for member in members.infolist():
                    target = (Path(staging) / member.filename).resolve()
                    kind = stat.S_IFMT(member.external_attr >> 16)
                    if not target.is_relative_to(Path(staging).resolve()) or kind not in (
                        0,
                        stat.S_IFREG,
                        stat.S_IFDIR,
                    ):
                        raise DataError(
                            f"{archive}: member {member.filename!r} would be written outside of the"
                            " folder; nothing was unpacked"
                        )
                members.extractall(staging)
        except _DAMAGED as error:
            archive.unlink()
            raise DataError(
                f"{archive}: damaged ({error}); it was removed, run the command again"
            ) from error
        tops = [top for top in Path(staging).iterdir() if top.is_dir() and top.name != "__MACOSX"]
        if len(tops) != 1:
            raise DataError(f"{archive}: expected one folder at the top, found {len(tops)}")
        shutil.move(os.fspath(tops[0]), folder)


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be made ({error.strerror}); give this user permission, or name"
            " another folder with --cache_dir"
        ) from error


# Files from the web: fetched once, resumed where a connection broke, measured before they
# count.

_TIMEOUT_S = 30.0
_ATTEMPTS = 4
_CHUNK_BYTES = 1 << 18
_BROKEN = (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException)


def download(
    url: str, path: Path, *, size_bytes: int | None, instead: str, digest: str = ""
) -> Path:
    """Fetches a file, unless it is there already.

    What has arrived is kept as ``<name>.part``, so that the next call goes on where this one was
    cut off.

    Args:
        url: http(s) address.
        path: where the file ends up; its folder is made.
        size_bytes: what it must measure; None: what the server announces.
        instead: what to do where the network does not answer, as the end of a sentence.
        digest: its MD5 or SHA-256 in hexadecimal; empty: not known.

    Returns:
        The path.

    Raises:
        DataError: the network does not answer, the file has another size or digest, or it cannot be
            written.
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
        if digest and _digest(part, "sha256" if len(digest) == 64 else "md5") != digest:
            part.unlink()
            raise DataError(
                f"{url}: sent a different file than expected (digest {digest}); {instead}"
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


def _digest(file: Path, algorithm: str) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _fetch(url: str, part: Path, size_bytes: int | None) -> int:
    """Appends to `part` until it is whole; gives up where an attempt brings nothing. Returns the
    size expected.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        have = part.stat().st_size if part.exists() else 0
        if have and have == size_bytes:
            return have
        logger.info("downloading %s", url)
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
        f"the download broke off {_ATTEMPTS} times; the part that arrived is kept; run the command"
        " again"
    )


def _receive(url: str, part: Path, have: int, size_bytes: int | None) -> int:
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
        begins = response.headers.get("Content-Range", f"bytes {have}-").startswith(
            f"bytes {have}-"
        )
        if response.status == 206 and not begins:
            return _receive(url, part, 0, size_bytes)
        start = have if response.status == 206 else 0
        length = response.headers.get("Content-Length", "")
        expected = size_bytes or (start + int(length) if length.isdecimal() else None)
        with (
            part.open("ab" if start else "wb") as file,
            progress(
                desc=part.stem, total=expected, initial=start, unit="B", unit_scale=True
            ) as bar,
        ):
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
    # Where nobody knows, it is as long as what came.
    return expected or part.stat().st_size

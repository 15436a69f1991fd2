"""From what `--data` and `--base_weights` name to a folder and a file on this machine."""

import csv
import difflib
import hashlib
import http.client
import io
import logging
import os
import posixpath
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO

from trainer.config import Config
from trainer.data.layout import CSV_SUFFIXES, find, read_csv
from trainer.data.ledger import read_exclusions
from trainer.data.sample import whole_folder, write_sample
from trainer.data.splits import INDEX, LEDGER_NAME
from trainer.errors import DataError, WeightsError
from trainer.variants import BACKBONES, VARIANTS
from whisker_ml import storage
from whisker_ml.errors import disk_errors
from whisker_ml.files import BUCKET_SCHEME, is_address, parse_address, replacing
from whisker_ml.formats import SUFFIXES
from whisker_ml.terminal import progress

logger = logging.getLogger(__name__)

# The zip that TensorFlow's tutorials use: 2,000 training and 1,000 validation pictures.
CATS_AND_DOGS_URL = "https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip"

# Where keras.applications loads its weights from.
IMAGENET_URL = "https://storage.googleapis.com/tensorflow/keras-applications"

_SAMPLE_SEED = 2
# What `--data` names without a folder, and the folder that is made of it.
NAMES = {"sample": f"sample-{_SAMPLE_SEED}", "cats_and_dogs": "cats_and_dogs_filtered"}

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
        StorageError: the bucket cannot be read, or the disk cannot be written.
    """
    if data in NAMES:
        folder = downloads / NAMES[data]
        with disk_errors(folder):
            if data == "sample":
                write_sample(folder, seed=_SAMPLE_SEED)
            elif not folder.is_dir():
                _unpack(cats_and_dogs_url, folder)
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
    is_csv = path.is_file() and path.suffix.lower() in CSV_SUFFIXES
    if path.is_dir() or is_csv:
        fetched = is_csv and any(is_address(row) for _, row, _, _ in read_csv(path))
        if not fetched and not (path / INDEX).exists():
            find(path, classes)
        return
    if path.is_file():
        raise DataError(
            f"--data={data}: is a file; expected a folder of class folders, or a CSV file with"
            " path,label[,split]; give its folder, or the one that it unpacks to"
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


def _unpack(url: str, folder: Path) -> None:
    with whole_folder(folder) as whole:
        # The zip's top folder has the same name.
        archive = whole.with_name("archive.zip")
        download(
            url,
            archive,
            instead="fetch it where there is a network, unpack it, and use --data=FOLDER",
        )
        try:
            # Members that would land elsewhere are passed over, and links are plain files.
            shutil.unpack_archive(archive, archive.parent)
        except (shutil.ReadError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise DataError(
                f"{url}: sent a damaged zip ({error}); run the command again"
            ) from error


# Files from the web: fetched once, gone on with where a connection broke, whole before they count.

_TIMEOUT_S = 30.0
_ATTEMPTS = 4
_CHUNK_BYTES = 1 << 18
_BROKEN = (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException)


def download(url: str, path: Path, *, instead: str, digest: str = "") -> Path:
    """Fetches a file, unless it is there already.

    Args:
        url: http(s) address.
        path: where the file ends up; its folder is made.
        instead: what to do where the network does not answer, as the end of a sentence.
        digest: its MD5 or SHA-256 in hexadecimal; empty: not known.

    Returns:
        The path.

    Raises:
        DataError: the network does not answer, or the file has another digest.
        DiskError: it cannot be written.
    """
    if path.is_file():
        return path
    logger.info("downloading %s", url)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as stream:
            try:
                _fetch(url, stream)
            except urllib.error.HTTPError as error:
                raise DataError(
                    f"{url}: the server answers {error.code} {error.reason}; {instead}"
                ) from error
            except _BROKEN as error:
                reason = getattr(error, "reason", None) or error
                raise DataError(f"{url}: cannot be reached ({reason}); {instead}") from error
            stream.seek(0)
            algorithm = "sha256" if len(digest) == 64 else "md5"
            if digest and hashlib.file_digest(stream, algorithm).hexdigest() != digest:
                raise DataError(
                    f"{url}: sent a different file than expected (digest {digest}); {instead}"
                )
    return path


def _fetch(url: str, stream: IO[bytes]) -> None:
    """Goes on where a connection broke; gives up where an attempt brings nothing."""
    for _ in range(_ATTEMPTS):
        have = stream.tell()
        try:
            if _receive(url, stream):
                return
        except _BROKEN:
            if stream.tell() == have:
                raise
    raise ConnectionError(f"the download broke off {_ATTEMPTS} times; run the command again")


def _receive(url: str, stream: IO[bytes]) -> bool:
    """Adds what a file lacks; tells whether it is whole then."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={stream.tell()}-"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
        if not response.headers.get("Content-Range", "").startswith(f"bytes {stream.tell()}-"):
            stream.seek(0)
            stream.truncate()
            if response.status == 206:  # a part that nobody asked for, rather than all of it
                return False
        name = posixpath.basename(url)
        with progress(desc=name, total=response.length, unit="B", unit_scale=True) as bar:
            while chunk := response.read(_CHUNK_BYTES):
                stream.write(chunk)
                bar.update(len(chunk))
        # What is left; None where the server does not say.
        return not response.length

"""From what `--data` and `--base_weights` name to a folder and a file on this machine."""

import os
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path

from trainer.config import Config
from trainer.data.download import download
from trainer.data.frozen import LEDGER
from trainer.data.kinds import PICTURE_SUFFIXES
from trainer.data.sample import write_sample
from trainer.data.shards import INDEX
from trainer.errors import DataError, WeightsError
from trainer.variants import VARIANTS
from whisker_ml import storage
from whisker_ml.files import is_address, parse_address

# The zip that TensorFlow's tutorials use: 2,000 training and 1,000 validation pictures.
CATS_AND_DOGS_URL = "https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip"
CATS_AND_DOGS_BYTES = 68_606_236

# Where keras.applications.mobilenet_v2 loads its weights from, and the sizes it has them for.
IMAGENET_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2"
IMAGENET_SIZES = (96, 128, 160, 192, 224)

_SAMPLE_SEED = 0

# What stands beside pictures, or holds them.
_FROZEN = (LEDGER, INDEX, ".tfrecord")


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
        storage.download_folder(data, folder, suffixes=(*PICTURE_SUFFIXES, *_FROZEN))
        return folder
    return Path(data).expanduser()


def backbone_weights(config: Config, downloads: Path) -> Path | None:
    """Finds or fetches the weights that a run starts from; None for random ones, or no backbone."""
    if not VARIANTS[config.variant].backbone:
        return None
    return weights_file(config.base_weights, config.image_size, downloads)


def weights_file(
    base_weights: str, image_size: int, downloads: Path, *, imagenet_url: str = IMAGENET_URL
) -> Path | None:
    """Finds or fetches the backbone's weights that `--base_weights` names; None for ``none``.

    Raises:
        DataError: the network does not answer.
        WeightsError: there is no such file.
    """
    if base_weights == "none":
        return None
    if base_weights == "imagenet":
        # As Keras does: the weights of the same picture size where there are any, else those of 224
        # pixels.
        size = image_size if image_size in IMAGENET_SIZES else 224
        name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{size}_no_top.h5"
        return download(
            f"{imagenet_url}/{name}",
            downloads / name,
            size_bytes=None,
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
                            f"{archive}: member {member.filename!r} would leave the folder; nothing"
                            " unpacked"
                        )
                members.extractall(staging)
        except (zipfile.BadZipFile, EOFError) as error:
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
            f"{folder}: cannot be made ({error.strerror}); give this user permission"
        ) from error

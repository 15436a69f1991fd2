"""whisker.json, the manifest of a version: where it came from, and the digest of every file, so
that it can be checked.

The trainer says where the model came from; publishing adds the number and the digests, which guard
against accidents (a flipped byte, a lost file, an edited label), not against somebody who writes
new digests too.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from whisker_ml.contract import EXTRA_FOLDER
from whisker_ml.errors import StorageError, disk_errors
from whisker_ml.files import parse_json

MANIFEST_FILE = f"{EXTRA_FOLDER}/whisker.json"
LEDGER_FILE = f"{EXTRA_FOLDER}/ledger.jsonl"

# Set by `complete`; what the trainer says under these names is replaced.
_CLASSES_DIGEST = "classes_sha256"


class ManifestError(StorageError):
    """A whisker.json that cannot be read."""


class DigestError(StorageError):
    """A version is not, byte for byte, what was published."""


class LabelsError(StorageError):
    """The class names that a version records are not those of its model."""


class NumberError(StorageError):
    """A version was published under another number than it has."""


def parse(content: bytes, place: str) -> dict[str, Any]:
    """Reads a manifest.

    Args:
        content: of the file; empty where there is none, which gives an empty manifest.
        place: where it comes from, for the error.

    Raises:
        ManifestError: it is no JSON object.
    """
    return parse_json(content or b"{}", place, "export the model again", ManifestError)


def describe(files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Gives size in bytes and SHA-256 of every file but the manifest.

    Args:
        files: relative names with forward slashes, and where each file lies.

    Raises:
        DiskError: a file cannot be read.
    """
    described: dict[str, dict[str, Any]] = {}
    for name in sorted(set(files) - {MANIFEST_FILE}):
        with disk_errors(files[name]), files[name].open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            described[name] = {"size": file.tell(), "sha256": digest}
    return described


def complete(
    given: Mapping[str, Any],
    model_name: str,
    version: int,
    published: datetime,
    files: Mapping[str, Mapping[str, Any]],
) -> bytes:
    """Makes the manifest of a version.

    Args:
        given: what the trainer says.
        model_name: as the server knows the model.
        version: its number.
        published: information for people; nothing is ordered by it.
        files: from `describe`.

    Returns:
        The content of the version's whisker.json.
    """
    manifest = {
        **given,
        "model_name": model_name,
        "version": version,
        "published": published.isoformat(timespec="seconds"),
        "files": files,
    }
    if "classes" in given:
        manifest[_CLASSES_DIGEST] = _digest(given["classes"])
    return json.dumps({**manifest, "digest": _manifest_digest(manifest)}, indent=1).encode()


def files_in(folder: Path) -> dict[str, Path]:
    """Lists what is in a folder at any depth, but for folders: relative names with forward slashes,
    and where each lies. Links are listed and not followed.

    Raises:
        DiskError: a folder cannot be listed.
    """
    with disk_errors(folder):
        paths = sorted(
            Path(parent, name)
            for parent, folders, names in os.walk(folder, onerror=_raise)
            for name in (*names, *folders)
            if name in names or Path(parent, name).is_symlink()
        )
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _raise(error: OSError) -> None:
    raise error


def irregular(files: Mapping[str, Path]) -> str | None:
    """Gives the name of the first that is a link, or no regular file; None where there is none."""
    return next(
        (name for name, path in files.items() if not stat.S_ISREG(path.lstat().st_mode)), None
    )


def verify(folder: Path, version: int, place: str) -> None:
    """Finds out whether a folder holds what was published under a number, and nothing else.

    Args:
        folder: of the version, or a copy of it.
        version: the number that it is to have.
        place: where the version lies, for the errors.

    Raises:
        DigestError: a file is missing, was added or is not what it was, or is no regular file; or
            the version has no digests.
        LabelsError: the class names in whisker.json are not those that were published.
        NumberError: it was published under another number.
        DiskError: a file cannot be read.
    """
    files = files_in(folder)
    if strange := irregular(files):
        raise _changed(place, f"{strange} is a link, or not a regular file")
    if MANIFEST_FILE not in files:
        raise DigestError(
            f"{place} has no {MANIFEST_FILE}, so nothing tells whether it is complete: publish"
            " the model with whisker-store publish, which writes digests"
        )
    with disk_errors(files[MANIFEST_FILE]):
        content = files[MANIFEST_FILE].read_bytes()
    try:
        manifest = parse(content, f"{place}/{MANIFEST_FILE}")
    except ManifestError as error:
        raise DigestError(f"{error} and publish it") from error
    if manifest.get("version", version) != version:
        raise NumberError(
            f"{place} is a copy of what was published as version {manifest['version']}: a version"
            " keeps its number; promote that one, or publish the model again"
        )
    if "classes" in manifest and manifest.get(_CLASSES_DIGEST) != _digest(manifest["classes"]):
        raise LabelsError(
            f"{place}: the classes in {MANIFEST_FILE}, now {manifest['classes']}, are not those"
            " that were published: publish the model again"
        )
    if manifest.get("digest") != _manifest_digest(manifest):
        raise _changed(place, f"{MANIFEST_FILE} differs from what was published")
    published, found = manifest["files"], describe(files)
    for name in sorted({*published, *found}):
        if name not in found:
            raise _changed(place, f"{name} is missing")
        if name not in published:
            raise _changed(place, f"{name} was not published with it")
        sizes = found[name]["size"], published[name]["size"]
        if sizes[0] != sizes[1]:
            raise _changed(place, "{} has {} bytes, not {}".format(name, *sizes))
        if found[name] != published[name]:
            raise _changed(place, f"{name} has another SHA-256 than when it was published")


def _changed(place: str, what: str) -> DigestError:
    return DigestError(f"{place}: {what}: publish the model again, or promote another version")


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    return _digest({name: value for name, value in manifest.items() if name != "digest"})


def _digest(value: Any) -> str:
    """Gives the SHA-256 of a value in the one form that JSON has for it here."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()

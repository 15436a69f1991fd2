"""Names by digest the base images of Dockerfiles, and the Makefile's BUILDKIT; standard library
only, any Python from 3.8.

``python3 infra/pin_images.py File…`` has docker pull each image by its tag, and writes behind the
tag what it stands for now; ``--check`` asks nobody, and ends with one line where an image is named
by a tag alone, which can move.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

_FROM = re.compile(
    r"^(?:FROM\s+(?:--\S+\s+)*|BUILDKIT := )"
    r"(?P<image>[^\s@]+)(?P<digest>@\S+)?(?:\s+AS\s+(?P<stage>\S+))?",
    re.MULTILINE,
)
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}")


class PinError(Exception):
    """An image that is not pinned, or cannot be."""


def main():
    """Pins, or checks; ends with one line where it cannot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="ask nobody; fail where an image is not pinned"
    )
    parser.add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    try:
        (check if arguments.check else pin)(arguments.files)
    except (PinError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def check(files):
    """Refuses files that name a base image by a tag alone.

    Args:
        files: paths of Dockerfiles, or of the Makefile.

    Raises:
        PinError: names all of them.
    """
    loose = [
        f"{file}: {found['image']}{found['digest'] or ''}"
        for file in files
        for found in base_images(file.read_text("utf-8"))
        if not _DIGEST.fullmatch(found["digest"] or "")
    ]
    if loose:
        raise PinError(
            f"require-pinned: base images that are not named by digest: {', '.join(loose)}; run"
            " make pin-images, and commit what it changes"
        )


def pin(files):
    """Writes behind every base image's tag the digest that its registry gives for it; all files, or
    none.

    Args:
        files: paths of Dockerfiles, or of the Makefile.

    Raises:
        PinError: an image cannot be pulled.
    """
    digests, written = {}, {}
    for file in files:
        text = written[file] = file.read_text("utf-8")
        # From the last to the first: what is written moves nothing that is still to be.
        for found in reversed(list(base_images(text))):
            image, start = found["image"], found.end("image")
            digests[image] = digests.get(image) or digest_of(image)
            text = text[:start] + "@" + digests[image] + text[start + len(found["digest"] or "") :]
        written[file] = text
    for file, text in written.items():
        file.write_text(text, encoding="utf-8")
    for image, digest in digests.items():
        print(f"{image}@{digest}")


def base_images(text):
    """Gives the matches of lines that name an image of a registry: no earlier stage, no
    argument of the build.
    """
    stages = set()
    for found in _FROM.finditer(text):
        if found["image"] not in stages and not found["image"].startswith("$"):
            yield found
        stages.add(found["stage"])


def digest_of(image):
    """Pulls an image by its tag; gives the digest that its registry has for it, the same on all
    platforms.

    Args:
        image: as in a FROM line, such as ``python:3.12-slim``.

    Raises:
        PinError: it cannot be pulled.
    """
    # Not every image is there for this machine's platform.
    command = ["docker", "pull", "--platform=linux/amd64", image]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    digest = re.search(r"^Digest: (sha256:[0-9a-f]{64})$", ended.stdout, re.MULTILINE)
    if ended.returncode or not digest:
        said = " ".join((ended.stderr or ended.stdout).split())
        raise PinError(f"pin-images: {image}: docker pull gives no digest: {said}")
    return digest[1]


if __name__ == "__main__":
    main()

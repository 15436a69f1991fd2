"""Names by digest the base images of Dockerfiles, and the Makefile's BUILDKIT; standard library
only, any Python from 3.8.

``python3 infra/pin_images.py File…`` asks each image's registry what its tag stands for now
and writes that behind the tag; ``--check`` asks nobody, and ends with one line where an image is
named by a tag alone, which can move.
"""

import argparse
import hashlib
import http.client
import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

TIMEOUT_S = 30

_FROM = re.compile(
    r"^(?:FROM\s+(?:--\S+\s+)*|BUILDKIT := )"
    r"(?P<image>[^\s@]+)(?P<digest>@\S+)?(?:\s+AS\s+(?P<stage>\S+))?",
    re.MULTILINE,
)
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}")
# What a tag may stand for: an image for several platforms first, as its digest is right on all of
# them (the specifications of the Open Container Initiative and of Docker's registry, version 2).
_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


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
        PinError: a registry does not answer, or answers something else.
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
    """Asks an image's registry for the digest of its tag.

    Args:
        image: as in a FROM line, such as ``python:3.12-slim``.

    Returns:
        ``sha256:`` and 64 hexadecimal digits: the hash of the manifest that was sent.

    Raises:
        PinError: no answer, or one that is no manifest, or not the one that the registry says it
            is.
    """
    url, repository = manifest_url(image)
    try:
        try:
            body, headers = get(url)
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            body, headers = get(url, token(error.headers.get("WWW-Authenticate", ""), repository))
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise PinError(f"pin-images: {image}: {url}: {' '.join(str(error).split())}") from error
    if headers.get_content_type() not in _MANIFESTS:
        raise PinError(
            f"pin-images: {image}: {url}: {headers.get_content_type()} is no manifest of an image"
        )
    digest = "sha256:" + hashlib.sha256(body).hexdigest()
    named = headers.get("Docker-Content-Digest", digest)
    if named != digest:
        raise PinError(
            f"pin-images: {image}: the registry calls it {named}, but what it sent is {digest}"
        )
    return digest


def manifest_url(image):
    """Gives the address of an image's manifest, and its repository; by docker's rules for names
    without a host.
    """
    host, slash, path = image.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, path = "docker.io", image if slash else "library/" + image
    repository, _, tag = path.partition(":")
    # As docker does: without TLS on this machine only.
    scheme = "http" if host.split(":")[0] in ("localhost", "127.0.0.1") else "https"
    host = "registry-1.docker.io" if host == "docker.io" else host
    return f"{scheme}://{host}/v2/{repository}/manifests/{tag or 'latest'}", repository


def token(challenge, repository):
    """Gets the token that a registry asks even strangers to bring (distribution.github.io, token
    authentication).
    """
    asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    if not challenge.startswith("Bearer ") or not asked.get("realm"):
        raise ValueError("401, and no address to get a token from")
    query = {
        "service": asked.get("service", ""),
        "scope": asked.get("scope", f"repository:{repository}:pull"),
    }
    answer = json.loads(get(asked["realm"] + "?" + urllib.parse.urlencode(query))[0])
    found = isinstance(answer, dict) and (answer.get("token") or answer.get("access_token"))
    if not found:
        raise ValueError(f"401, and no token from {asked['realm']}")
    return found


def get(url, bearer=None):
    """Gives body and headers of an answer."""
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"{url} is no address on the web")
    headers = {"Accept": ", ".join(_MANIFESTS)}
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (looked at above)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        return answer.read(), answer.headers


if __name__ == "__main__":
    main()

"""TLS configuration: PEM text goes in, paths are refused, and no error shows any of it."""

import random
import stat
from pathlib import Path

import pytest

from serving.config import ConfigError, tls


def pem(label: str, seed: int = 0) -> str:
    """Text in the form of RFC 7468; what is between the lines is no key."""
    letters = random.Random(seed).choices("ABCDEFGHabcdefgh0123+/", k=128)
    return (
        f"-----BEGIN {label}-----\n{''.join(letters[:64])}\n{''.join(letters[64:])}\n-----END"
        f" {label}-----\n"
    )


KEY, CERTIFICATE = pem("PRIVATE KEY", 1), pem("CERTIFICATE", 2)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    contents = {
        "key": KEY,
        "chain": CERTIFICATE + pem("CERTIFICATE", 3),
        "ca": pem("CERTIFICATE", 4),
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    return {name: tmp_path / name for name in contents}


@pytest.mark.parametrize("label", ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"])
@pytest.mark.parametrize("verified", [True, False])
def test_what_make_writes_is_read_back_and_holds_the_text(
    files: dict[str, Path], tmp_path: Path, label: str, verified: bool
) -> None:
    files["key"].write_text(pem(label))
    made = tls.make(files["key"], files["chain"], files["ca"] if verified else None)
    tls.write(tmp_path / "tls.config", made)
    read = tls.read(tmp_path / "tls.config")
    assert read == made
    assert (read.server_key, read.server_cert) == (pem(label), files["chain"].read_text())
    assert (read.client_verify, read.custom_ca) == (
        (True, files["ca"].read_text()) if verified else (False, "")
    )


def test_the_file_is_for_its_owner_alone_even_where_an_open_one_was(
    files: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "tls.config"
    path.touch(mode=0o666)
    tls.write(path, tls.make(files["key"], files["chain"]))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_missing_pem_file_is_named(tmp_path: Path, files: dict[str, Path]) -> None:
    with pytest.raises(
        ConfigError, match=r"/none: No such file or directory: expected a PEM file for server_cert$"
    ):
        tls.make(files["key"], tmp_path / "none")


def test_key_and_certificate_the_wrong_way_round_are_refused(files: dict[str, Path]) -> None:
    with pytest.raises(
        ConfigError,
        match=r"^SSLConfig: server_key is PEM text of something else: expected .*PRIVATE KEY",
    ):
        tls.make(files["chain"], files["key"])


def as_text(**fields: str | bool) -> str:
    return "\n".join(
        f"{name}: {str(value).lower()}" if isinstance(value, bool) else f"{name}: {value!r}"
        for name, value in fields.items()
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            as_text(server_key="/etc/tls/server.key", server_cert=CERTIFICATE),
            ": server_key is a path: expected the PEM te",
        ),
        (
            as_text(server_key=KEY, server_cert="server.crt"),
            ": server_cert is a path: expected the PEM text itself",
        ),
        (as_text(server_key=KEY), ": server_cert is missing: expected the PEM text itself"),
        (
            as_text(server_key=KEY[:80], server_cert=CERTIFICATE),
            ": server_key is PEM text of something else: expected",
        ),
        (
            as_text(server_key=KEY, server_cert=CERTIFICATE, custom_ca="ca.crt"),
            ": custom_ca is a path: expected",
        ),
        (
            as_text(server_key=KEY, server_cert=CERTIFICATE, client_verify=True),
            ": client_verify is true without a custom_ca",
        ),
        (
            as_text(server_key=KEY)[:-1],
            r" is not a SSLConfig \(1:\d+\): expected protobuf's text format",
        ),
        (f"no_field: {KEY!r}", r" is not a SSLConfig \(1:1\): expected"),
    ],
)
def test_a_file_without_the_pem_texts_is_refused_and_none_of_it_shown(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "tls.config"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"^{path}{message}") as caught:
        tls.read(path)
    assert "\n" not in str(caught.value)
    assert KEY.splitlines()[1][:16] not in str(caught.value)

"""The wheel, installed with the extra `client` where there is neither a checkout nor TensorFlow."""

import re
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.serving.client.test_client_installed import requirements, with_dependencies

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "setup.py"
if not SETUP.exists():
    pytest.skip("an image has no setup.py to build a wheel with", allow_module_level=True)
COMMANDS = re.findall(r'"(whisker-\w+)=', SETUP.read_text())


def run(*command, cwd):
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment with the wheel and what `client` needs; gives its folder of programs."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("whisker_ml", "serving", "trainer"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    offline = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    built = run(*pip, "wheel", *offline, f"--wheel-dir={folder}", source, cwd=folder)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("whisker_ml-*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    installed = run(*pip, f"--python={python}", "install", *offline[:3], wheel, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    # Without a network: what the extra needs, and nothing else, is what this environment has.
    (packages,) = (folder / "venv" / "lib").glob("python3*/site-packages")
    for name in with_dependencies(text.partition(">=")[0] for text in requirements()):
        for file in distribution(name).files:
            top = file.parts[0]
            if top != ".." and not (packages / top).exists():
                (packages / top).symlink_to(distribution(name).locate_file(top))
    return folder / "venv" / "bin"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_needs_no_extra(environment, command, tmp_path):
    ended = run(environment / command, "--help", cwd=tmp_path)
    # As the program that the server imitates (tf_serving: main.cc returns -1 after its usage).
    expected = 255 if command == "whisker-serve" else 0
    assert ended.returncode == expected, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert "--" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_modules_come_from_the_wheel_and_the_client_is_usable(environment, tmp_path):
    program = (
        "import serving.client, sys, trainer, whisker_ml.contract as contract\n"
        "print(contract.__file__, 'tensorflow' in sys.modules, 'numpy' in sys.modules)"
    )
    ended = run(environment / "python", "-c", program, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(str(environment.parent))
    assert ended.stdout.endswith("False False\n")


def test_a_command_whose_extra_is_missing_says_which(environment, tmp_path):
    ended = run(environment / "whisker-train", "--data=sample", cwd=tmp_path)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "the extra 'train'" in line

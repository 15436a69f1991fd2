"""Says before a download of hundreds of megabytes what would make it useless; standard library
only, any Python 3.
"""

import platform
import shutil
import sys

# What requirements/run.txt measures, downloaded and installed, on Linux x86-64 with Python 3.11.
DOWNLOAD_MB = 665
INSTALLED_GB = 2.5

# TensorFlow's wheels: Windows works through WSL2, and there are none for Intel Macs.
PLATFORMS = {("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")}


def main():
    """Prints the size of the download, or one line that says why there is no point in it, and exits
    with 2.
    """
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        refuse(
            "Python %s: expected 3.11, 3.12 or 3.13; make install PYTHON=/path/to/python3.12"
            % platform.python_version()
        )
    system, machine = platform.system(), platform.machine()
    if (system, machine) not in PLATFORMS:
        refuse(
            "%s on %s: TensorFlow has no wheels for it; expected Linux (x86-64, arm64), macOS"
            " (arm64), or WSL2" % (system, machine)
        )
    free_gb = shutil.disk_usage(".").free / 1e9
    if free_gb < INSTALLED_GB * 1.5:
        refuse(
            "%.1f GB free on this disk: the installation needs about %.1f GB while it runs"
            % (free_gb, INSTALLED_GB * 1.5)
        )
    print(
        "installing into .venv: about %d MB to download, %.1f GB on disk, once"
        % (DOWNLOAD_MB, INSTALLED_GB)
    )


def refuse(reason):
    """Ends with one line."""
    sys.exit("make install: %s" % reason)


if __name__ == "__main__":
    main()

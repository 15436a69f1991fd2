"""The report in a real browser, where one is installed: it is drawn, says nothing on the console,
and asks nobody.
"""

import json
import subprocess

import pytest
from PIL import Image

from tests.browser import CHROMIUM, QUIET

TIMEOUT_S = 120

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def visit(page, folder, width=900, dark=False):
    """What a visit prints, and the addresses that it asks for; the screenshot is in `folder`."""
    log = folder / "net.json"
    colors = [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    files = [
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={log}",
        f"--screenshot={folder / 'page.png'}",
    ]
    ended = subprocess.run(
        [
            CHROMIUM,
            *QUIET,
            *colors,
            *files,
            "--enable-logging=stderr",
            f"--window-size={width},1200",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    requests = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # Requests of the browser itself have no page for an initiator.
    asked = {
        each["url"]
        for each in requests
        if each.get("initiator", "not an origin") != "not an origin"
    }
    return [line for line in ended.stderr.splitlines() if "CONSOLE" in line], asked


@pytest.mark.parametrize(("width", "dark"), [(900, False), (390, True)])
def test_report_is_drawn_and_nothing_leaves_the_page(trained, tmp_path, width, dark):
    console, asked = visit(trained.run / "report.html", tmp_path, width, dark)
    assert console == []
    assert not {address for address in asked if not address.startswith("data:")}
    with Image.open(tmp_path / "page.png") as screenshot:
        assert screenshot.width == width
        corner = screenshot.convert("L").getpixel((2, 2))
        assert (corner < 60) if dark else (corner > 200)
        assert len(screenshot.convert("RGB").getcolors(2**24)) > 50


def test_page_that_asks_and_complains_is_noticed(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<img src='http://localhost:9/x.png'><script>console.error('oh no')</script>")
    console, asked = visit(page, tmp_path)
    assert any("oh no" in line for line in console)
    assert "http://localhost:9/x.png" in asked

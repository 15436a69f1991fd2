"""README's pictures show the report and the demo page as they are now.

After `make run`, `python -m tests.docs.test_pictures RUN_FOLDER MODEL_DIR` takes them anew, of that
run and of the server on its model, with Chromium.
"""

import base64
import hashlib
import io
import json
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from tests.browser import CHROMIUM, visit
from tests.docs.pages import README, ROOT

FOLDER = ROOT / "docs" / "pictures"
TAKEN_OF = FOLDER / "taken_of.json"
MOST_BYTES = 150_000
# What each picture shows is drawn by these.
TEMPLATES = {
    "report.png": (
        "trainer/reporting/page.html",
        "trainer/reporting/parts.html",
        "trainer/reporting/run.html",
        "trainer/reporting/style.css",
    ),
    "demo_page.png": ("serving/server/demo_page.html",),
}
WIDTH, HEIGHT = 900, 740
_COLOURS = 128


def digests(name):
    return {
        template: hashlib.sha256((ROOT / template).read_bytes()).hexdigest()
        for template in TEMPLATES[name]
    }


@pytest.mark.parametrize("name", TEMPLATES)
def test_picture_is_no_older_than_what_it_shows(name):
    taken_of = json.loads(TAKEN_OF.read_text(encoding="utf-8"))[name]
    assert taken_of == digests(name), "take the pictures anew: see this file's first lines"


@pytest.mark.parametrize("name", TEMPLATES)
def test_picture_is_small_and_on_readme(name):
    assert (FOLDER / name).stat().st_size < MOST_BYTES
    with Image.open(FOLDER / name) as picture:
        assert picture.width == WIDTH
    assert f"](docs/pictures/{name})" in README.read_text(encoding="utf-8")


def take(page, name):
    """Keeps the top of a page, in few colours."""
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT, "scale": 1}
    data = page.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
    FOLDER.mkdir(exist_ok=True)
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        picture.convert("RGB").quantize(_COLOURS).save(FOLDER / name, optimize=True)


def main(run_folder, model_dir):
    # Here, as the tests need neither.
    from serving.client.local_server import local_server
    from trainer.data.sample import unseen_pictures

    assert CHROMIUM, "Chromium is not installed"
    config = Path(model_dir, "models.config")
    report = Path(run_folder, "report.html").resolve().as_uri()
    with tempfile.TemporaryDirectory() as folder:
        with visit(report, f"{folder}/report", WIDTH) as page:
            # Where on the disk the model lies is nobody's business.
            page.evaluate(
                "document.querySelectorAll('header code').forEach((each) => {"
                " each.textContent = each.textContent.replace(/^.*\\/(?=\\w*models)/, '…/'); })"
            )
            take(page, "report.png")
        with (
            local_server(model_config_file=config, extra_flags=["--demo_page"]) as server,
            visit(f"http://127.0.0.1:{server.rest_api_port}/", f"{folder}/demo", WIDTH) as page,
        ):
            # The cat comes last: the first answer of a connection is slower than the others.
            for label, encoded in reversed(unseen_pictures(0, 1)):
                path = Path(folder, f"{label}.jpg")
                path.write_bytes(encoded)
                page.evaluate("document.getElementById('answer').hidden = true")
                page.choose("#file", path)
                page.wait_for("!document.getElementById('answer').hidden")
            page.evaluate("Promise.all(document.getAnimations().map((each) => each.finished))")
            take(page, "demo_page.png")
    text = json.dumps({name: digests(name) for name in TEMPLATES}, indent=1)
    TAKEN_OF.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

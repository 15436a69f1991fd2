"""The page to try a model, in a real browser on a real server."""

import urllib.request

import pytest
import tensorflow as tf
from PIL import Image

from serving.client.local_server import local_server
from serving.client.predict_client import PredictClient
from tests.browser import CHROMIUM, visit
from tests.trained_model import draw
from whisker_ml.contract import CLOSE

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

ANSWERED = "!document.getElementById('answer').hidden"
REFUSED = "!document.getElementById('error').hidden"


@pytest.fixture(scope="module")
def server(trained):
    config = trained.store / "models.config"
    with local_server(model_config_file=config, extra_flags=["--demo_page"]) as it:
        yield it, f"http://127.0.0.1:{it.rest_api_port}"


@pytest.fixture
def cat(tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(draw("cats", 1234))
    return path


def text(page, name):
    return page.evaluate(f"document.getElementById('{name}').innerText")


@pytest.mark.parametrize(("width", "dark"), [(900, False), (390, True)])
def test_chosen_picture_gets_the_answer_that_grpc_gives(server, cat, tmp_path, width, dark):
    it, address = server
    with PredictClient(f"localhost:{it.port}") as client:
        expected = client.predict(cat)
    with visit(f"{address}/", tmp_path / "profile", width, dark) as page:
        page.wait_for("document.getElementById('model').innerText.includes('version')")
        assert text(page, "model") == "model whisker, version 1"
        page.call(
            "Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9
        )
        assert page.evaluate("document.activeElement.id") == "file"
        page.choose("#file", cat)
        page.wait_for(ANSWERED)
        probabilities = sorted(expected.probabilities.items(), key=lambda pair: -pair[1])
        (best, first), (other, second), *_ = probabilities
        close = first - second < CLOSE
        assert text(page, "label") == (f"{best} or {other}" if close else expected.label)
        assert page.evaluate("CLOSE") == CLOSE
        bars = page.evaluate(
            "[...document.querySelectorAll('li')].map((item) => item.innerText.split('\\n'))"
        )
        assert bars == [[name, f"{100 * value:.1f} %"] for name, value in probabilities]
        assert page.evaluate(
            "/^Version 1 answered in \\d+ ms\\.$/.test(document.getElementById('facts').innerText)"
        )
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.evaluate("Promise.all(document.getAnimations().map((each) => each.finished))")
        page.screenshot(tmp_path / "page.png")
        assert page.complaints == []
        assert {asked for asked in page.asked if not asked.startswith(("blob:", "data:"))} == {
            f"{address}/",
            f"{address}/v1/models",
            f"{address}/v1/models/whisker/metadata",
            f"{address}/v1/models/whisker/versions/1:predict",
        }
    with Image.open(tmp_path / "page.png") as screenshot:
        corner = screenshot.convert("L").getpixel((2, 2))
        assert (corner < 60) if dark else (corner > 200)


def test_dropped_and_pasted_files_are_asked_about_and_errors_are_one_sentence(
    server, cat, tmp_path
):
    it, address = server
    words = tmp_path / "words.txt"
    words.write_text("no picture")
    with visit(f"{address}/", tmp_path / "profile") as page:
        data = {"items": [], "files": [str(cat)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            page.call("Input.dispatchDragEvent", type=kind, x=300, y=300, data=data)
        page.wait_for(ANSWERED)
        page.choose("#file", words)
        page.wait_for(REFUSED)
        assert (
            text(page, "error")
            == "This is no picture that the model can read: it takes JPEG, PNG, GIF, BMP and WebP."
        )
        assert not page.evaluate(ANSWERED)
        page.screenshot(tmp_path / "error.png")
        page.evaluate(f"""(async () => {{
              const data = new DataTransfer();
              const bytes = Uint8Array.from({list(cat.read_bytes())});
              data.items.add(new File([bytes], "cat.jpg", {{ type: "image/jpeg" }}));
              document.dispatchEvent(new ClipboardEvent("paste", {{ clipboardData: data }}));
            }})()""")
        page.wait_for(ANSWERED)
        assert not page.evaluate(REFUSED)
        assert page.complaints == []
        it.process.terminate()
        it.process.wait(30)
        page.choose("#file", cat)
        page.wait_for(REFUSED)
        assert text(page, "error") == "The server does not answer; is it still running?"


def test_model_without_pictures_is_said_to_be_none(tmp_path):
    module = tf.Module()
    module.double = tf.function(
        lambda x: 2 * x, input_signature=[tf.TensorSpec([None], tf.float32, name="x")]
    )
    tf.saved_model.save(module, str(tmp_path / "double" / "1"), signatures=module.double)
    with (
        local_server(
            model_name="double", model_base_path=tmp_path / "double", extra_flags=["--demo_page"]
        ) as it,
        visit(f"http://127.0.0.1:{it.rest_api_port}/", tmp_path / "profile") as page,
    ):
        page.wait_for(REFUSED)
        assert (
            text(page, "error")
            == "The model double takes no pictures: its signature serving_default has no input"
            " image_bytes."
        )
        assert text(page, "model") == "no model to try"
        with urllib.request.urlopen(f"http://127.0.0.1:{it.rest_api_port}/") as response:
            assert "connect-src 'self'" in response.headers["Content-Security-Policy"]

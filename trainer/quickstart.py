"""The whole way in one command: train on the built-in sample, publish, serve, and ask the server.

  make run
  python -m trainer.quickstart --epochs=5 --image_size=64
  python -m trainer.quickstart --model_dir=other_models

No network is used, and no server is left running.
"""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from serving.client.local_server import local_server
from serving.client.predict_client import PredictClient
from trainer.config import Config
from whisker_ml import cli, contract

_UNSEEN_PER_CLASS = 3
_PAGE_PORT = 8501


def main() -> None:
    """Entry point of `make run`."""
    # Not where README publishes the user's own model: a store refuses a version of other classes.
    cli.define("model_dir", "sample_models", "model store to publish to")
    cli.define("epochs", 20, "passes over the training pictures", minimum=1)
    cli.define("image_size", 96, "side in pixels of the square that pictures become", minimum=32)
    cli.run(_quickstart)


def _quickstart(_: Sequence[str]) -> None:
    start = time.perf_counter()
    config = Config(
        data="sample",
        image_size=flags.FLAGS.image_size,
        epochs=flags.FLAGS.epochs,
        model_dir=flags.FLAGS.model_dir,
    )
    print("training on pictures that this program draws; TensorFlow is starting ...", flush=True)
    cli.import_tensorflow()
    from trainer.data.sample import unseen_pictures
    from trainer.pipeline import run

    result = run(config)
    print("starting the local server, and asking it about pictures that it has never seen ...")
    served = Path(config.model_dir) / contract.MODELS_CONFIG
    pictures = unseen_pictures(result["model_version"], _UNSEEN_PER_CLASS)
    with (
        local_server(model_config_file=served) as server,
        PredictClient(f"localhost:{server.port}", label=contract.STABLE_LABEL) as client,
    ):
        answers = [(label, client.predict(encoded)) for label, encoded in pictures]

    test = result["test"]
    low, high = test["interval_95"]
    print()
    print(
        f"accuracy  {test['accuracy']:.3f} of {test['n']} test pictures (95 % interval {low:.3f} to"
        f" {high:.3f});"
    )
    print(f"          always answering the commonest class gets {result['baseline_accuracy']:.3f}")
    print(f"version   {result['model_version']}, published to {result['model_path']}")
    print(f"report    {result['run_dir']}/report.html")
    print("answers   of the server:")
    for true, answer in answers:
        verdict = "right" if answer.label == true else "wrong"
        print(
            f"          drawn as {true:5s} answered {answer.label:5s}"
            f" {answer.probability:.2f}  {verdict}"
        )
    print(f"seconds   {time.perf_counter() - start:.0f} in all")
    print(f"try it    with pictures of your own at http://localhost:{_PAGE_PORT}/, after")
    print(f"          {_serve_command(served)}")


def _serve_command(config: Path) -> str:
    """Gives the command that serves what is live, with the page to try it."""
    script = Path(sys.executable).with_name("whisker-serve")
    # Where nothing is installed, as in the trainer's image, there are no scripts.
    module = [] if script.exists() else ["-m", "serving.server"]
    server = script if script.exists() else Path(sys.executable)
    server = server.relative_to(Path.cwd()) if server.is_relative_to(Path.cwd()) else server
    more = [
        "--demo_page",
        "--allow_version_labels_for_unavailable_models",
        f"--model_config_file={config}",
    ]
    return shlex.join([str(server), *module, f"--rest_api_port={_PAGE_PORT}", *more])


if __name__ == "__main__":
    main()

"""Predictions for pictures: ``python -m serving.predict PATH…``, each a file or a folder of pictures.

Asks the server at --server, or, with --model_dir, a local one that serves that model store for the while. Answers go
to standard output, one line a picture; pictures that failed are listed last on standard error, and the exit code is 4.
"""

from __future__ import annotations

import io
import itertools
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from absl import flags

from serving import command_line, contract
from serving.errors import EXIT_DONE, EXIT_SOME_PICTURES_FAILED, WhiskerError

if TYPE_CHECKING:
    from serving.client.errors import ClientError
    from serving.client.predict_client import PredictClient, Prediction


class WrongUse(WhiskerError):
    """The command line asks for something that cannot be done."""


def main() -> None:
    """Defines the flags, runs the command, and exits."""
    # Flags of the running command, whichever way it was started: --help lists no others.
    here = sys.argv[0]
    text, whole = flags.ArgumentParser(), flags.IntegerParser(lower_bound=1)
    formats = flags.EnumParser(["table", "json", "csv"])
    flags.DEFINE(text, "server", contract.DEFAULT_SERVER, "host:port of the server's gRPC port", module_name=here)
    flags.DEFINE(text, "model_dir", None, "model store to serve here for the while; no --server", module_name=here)
    flags.DEFINE(text, "model_name", contract.DEFAULT_MODEL_NAME, "name that the server has for it", module_name=here)
    flags.DEFINE(whole, "version", None, "ask this version; default: the newest that is loaded", module_name=here)
    flags.DEFINE(text, "label", None, "ask the version with this label instead", module_name=here)
    flags.DEFINE(text, "signature", contract.SIGNATURE_BYTES, "one that takes pictures as bytes", module_name=here)
    flags.DEFINE(formats, "format", "table", "<table|json|csv>: what to write; json: JSON lines", module_name=here)
    flags.DEFINE(whole, "top", None, "how many classes to show; default: 1, json: all", module_name=here)
    flags.DEFINE(flags.FloatParser(), "timeout_s", 10.0, "seconds that an answer may take", module_name=here)
    command_line.run(_predict)


def _predict(arguments: Sequence[str]) -> int:
    asked = flags.FLAGS
    paths = arguments[1:]
    if not paths:
        raise WrongUse("no pictures named: expected paths of files or folders, as in python -m serving.predict a.jpg")
    if asked.model_dir and asked["server"].present:
        raise WrongUse("--server and --model_dir: expected one of them, a running server or a store to serve here")

    # Not for --help or a mistyped flag, and a missing extra gets its one line.
    from serving.client.formats import FORMATS
    from serving.client.predict_client import PredictClient

    with ExitStack() as stack:
        server = stack.enter_context(_serving(asked.model_dir)) if asked.model_dir else asked.server
        client = PredictClient(
            server,
            asked.model_name,
            version=asked.version,
            label=asked.label,
            signature=asked.signature,
            timeout_s=asked.timeout_s,
        )
        stack.enter_context(client)
        # Without the server or the model: fail once, not for every picture.
        client.model_versions()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A file name that is no UTF-8 goes out as the bytes that it is.
            sys.stdout.reconfigure(errors="surrogateescape")
        write = FORMATS[asked.format](sys.stdout, asked.top)
        # A file, because memory stays constant even where every one of many pictures fails.
        failures = stack.enter_context(TemporaryFile("w+", encoding="utf-8", errors="surrogateescape"))
        total = failed = 0
        for path, outcome in _outcomes(client, paths):
            write(path, outcome)
            total += 1
            if isinstance(outcome, WhiskerError):
                failed += 1
                print(f"{path}: {outcome}", file=failures)
        if not failed:
            return EXIT_DONE
        sys.stdout.flush()
        print(f"{failed} of {total} failed:", file=sys.stderr)
        failures.seek(0)
        shutil.copyfileobj(failures, sys.stderr)
        return EXIT_SOME_PICTURES_FAILED


def _outcomes(client: PredictClient, paths: Sequence[str]) -> Iterator[tuple[str, Prediction | ClientError]]:
    from serving.client.folders import find_pictures

    found, sent = itertools.tee(find_pictures(paths))
    answers = client.predict_many(path for path, error in sent if error is None)
    for path, error in found:
        yield path, error or next(answers)


@contextmanager
def _serving(model_dir: str) -> Iterator[str]:
    from serving.client.local_server import local_server

    config = Path(model_dir, contract.MODELS_CONFIG)
    if not config.is_file():
        raise WrongUse(f"{config} is not there: expected --model_dir to be a local model store with a published model")
    # By default SIGTERM ends this process on the spot, and the server would be left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    print(f"starting a local server for {config}", file=sys.stderr)
    with local_server(model_config_file=config) as server:
        yield f"127.0.0.1:{server.port}"


if __name__ == "__main__":
    main()

"""Asks a model about pictures: which class each shows, and how probable that is.

  whisker-predict --server=localhost:8500 my_pictures/cats
  whisker-predict --model_dir=models --out=results.csv 'photos/**/*.jpg'
  find photos -newer last | whisker-predict --format=json --top=3

A path is a file, a folder with all below it, or a pattern such as 'photos/**/*.jpg'. Without one,
paths are read from standard input, one per line; `-` is one picture on standard input.

The server at --server answers. With --model_dir a local server does, which runs as long as this
command. Answers go to standard output, one line per picture. --out=results.csv keeps them in that
file, and the same command then resumes with the pictures that have no answer yet. --out=sheet.png
draws the pictures with their answers. Pictures that failed are listed last on standard error, and
the exit code is 4. If the server stops answering, this waits for it, up to --wait_s, and then
continues.
"""

from __future__ import annotations

import io
import itertools
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

from absl import flags

from serving import connection_flags
from whisker_ml import cli, contract, terminal
from whisker_ml.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_SOME_PICTURES_FAILED,
    EXIT_STOPPED,
    WhiskerError,
    WrongUse,
)

if TYPE_CHECKING:
    from serving.client.errors import ClientError
    from serving.client.predict_client import PredictClient
    from serving.client.protocol import Prediction
    from serving.predict_output import Sheet, Write

    # What a picture is called; its file, its bytes, or why there are none.
    Named = tuple[str, str | bytes | ClientError]
    Answered = tuple[str, str | bytes | ClientError, Prediction | ClientError]

# A picture that a server fails at each time, though it is well between, is that picture's failure.
_MOST_ATTEMPTS = 3
# What a server takes to answer that is well, and is not worth a line.
_SHORT_WAIT_S = 1.0


class Stopped(WhiskerError):
    """Not all pictures were asked about: Ctrl-C or SIGTERM came in the middle, or no answer."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class NoAnswer(WhiskerError):
    """The server was waited for, and did not come back."""


def main() -> None:
    """Defines the flags, runs the command, and exits."""
    cli.define("server", contract.DEFAULT_SERVER, "host:port of the server's gRPC port")
    cli.define(
        "model_dir",
        None,
        "model store, local or gs://, for a local server that runs as long as this command;"
        " instead of --server",
    )
    cli.define("model_name", None, "name of the model; default: the only one")
    cli.define(
        "version", None, "ask this version; default: the newest that is loaded", minimum=1, kind=int
    )
    cli.define("label", None, "ask the version with this label instead")
    cli.define(
        "signature", contract.SIGNATURE_BYTES, "signature of the model that takes pictures as bytes"
    )
    cli.define(
        "format", "table", "what to write; json: JSON lines", choices=["table", "json", "csv"]
    )
    cli.define("top", None, "how many classes to show; default: 1, json: all", minimum=1, kind=int)
    cli.define(
        "out",
        None,
        "file to write. .csv, .json or .jsonl: answers, instead of standard output; a picture"
        " with an answer there is not asked about again. .png: pictures and answers, the wrong"
        " and the least sure first (needs Pillow)",
    )
    cli.define("timeout_s", 10.0, "seconds that an answer may take")
    cli.define(
        "wait_s",
        300.0,
        "seconds to wait for a server that no longer answers; then the command ends with exit"
        " code 4",
        minimum=0,
    )
    connection_flags.define()
    cli.run(_predict)


def _predict(arguments: Sequence[str]) -> int:
    values = flags.FLAGS
    if values.model_dir and values["server"].present:
        raise WrongUse(
            "--server and --model_dir: expected one of them, a running server or a store to serve"
            " here"
        )
    # Not for --help or a mistyped flag, and a missing extra gets its one line.
    from serving.predict_output import FORMAT_BY_SUFFIX, FORMATS, Sheet, open_results

    out = _usable(Path(values.out or ""))
    suffix = out.suffix.lower()
    sheet = Sheet(out) if suffix == ".png" else None
    # By default SIGTERM ends this process on the spot: lines would be lost, and a local server left
    # behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_STOPPED))
    pictures = _pictures(_paths(arguments[1:]))
    with ExitStack() as stack:
        client = stack.enter_context(_connected())
        # Without the server or the model: fail once, not for every picture.
        client.model_versions()
        results = None
        if suffix in FORMAT_BY_SUFFIX:
            results = stack.enter_context(open_results(out, values.top))
            pictures = (named for named in pictures if named[0] not in results)
        elif isinstance(sys.stdout, io.TextIOWrapper):
            # A file name that is no UTF-8 goes out as the bytes that it is.
            sys.stdout.reconfigure(errors="surrogateescape")
        write = results.write if results else FORMATS[values.format](sys.stdout, values.top)
        answers = _ask(client, pictures, values.wait_s)
        # Lines that come on a terminal are progress enough, and a bar would tear them.
        if sys.stderr.isatty() and (results or not sys.stdout.isatty()):
            answers = terminal.progress(answers, unit=" pictures", delay=terminal.LONG_S)
        # A file, because memory stays constant even where every one of many pictures fails.
        failures = stack.enter_context(
            TemporaryFile("w+", encoding="utf-8", errors="surrogateescape")
        )
        total, failed, ended = _write_answers(answers, write, sheet, failures)
        sys.stdout.flush()
        if results:
            print(
                f"{out}: {results.kept + total - failed:,} answers, {results.kept:,} of them from"
                " an earlier run",
                file=sys.stderr,
            )
        if sheet:
            print(sheet.draw(), file=sys.stderr)
        if failed:
            print(f"{failed} of {total} failed:", file=sys.stderr)
            failures.seek(0)
            shutil.copyfileobj(failures, sys.stderr)
    if ended:
        reason, exit_code = ended
        again = "resumes" if results else "with --out=results.csv would resume"
        raise Stopped(
            f"{reason} after {total:,} pictures, whose answers are kept; the same command {again}",
            exit_code,
        )
    return EXIT_SOME_PICTURES_FAILED if failed else EXIT_DONE


def _usable(out: Path) -> Path:
    """Refuses a file of `--out` that cannot be written; ``.`` is none."""
    from serving.predict_output import FORMAT_BY_SUFFIX

    if out != Path() and out.suffix.lower() not in (*FORMAT_BY_SUFFIX, ".png"):
        raise WrongUse(
            f"--out={out}: expected a name that ends in {', '.join(FORMAT_BY_SUFFIX)} or .png"
        )
    if not out.parent.is_dir():
        raise WrongUse(f"--out={out}: there is no folder {out.parent}")
    return out


@contextmanager
def _connected() -> Iterator[PredictClient]:
    """A client of the server that the flags name, or of one that is started here."""
    from serving.client.local_server import local_server
    from serving.client.predict_client import PredictClient

    values = flags.FLAGS
    with ExitStack() as stack:
        server, model_name = values.server, values.model_name
        if values.model_dir:
            model_name, config = _stored(values.model_dir, model_name)
            print(f"starting a local server for {config}", file=sys.stderr)
            local = stack.enter_context(local_server(model_config_file=config))
            server = f"127.0.0.1:{local.port}"
        yield stack.enter_context(
            PredictClient(
                server,
                model_name,
                version=values.version,
                label=values.label,
                signature=values.signature,
                timeout_s=values.timeout_s,
                **connection_flags.security(),
            )
        )


def _write_answers(
    answers: Iterable[Answered], write: Write, sheet: Sheet | None, failures: IO[str]
) -> tuple[int, int, tuple[str, int] | None]:
    """Writes answers as they come.

    Returns:
        How many there were, how many of them failed, and, where it ended early, why and the exit
        code.
    """
    from serving.client import errors

    # As long as nothing was answered, these say that nothing will be: one line is enough.
    of_every_picture = (
        errors.InvalidRequest,
        errors.NotAllowed,
        errors.UnexpectedReply,
        errors.ModelNotFound,
    )
    total = failed = 0
    try:
        for path, picture, outcome in answers:
            if total == failed and isinstance(outcome, of_every_picture):
                raise outcome
            write(path, outcome)
            if sheet:
                sheet.add(path, picture, outcome)
            total += 1
            if isinstance(outcome, WhiskerError):
                failed += 1
                print(terminal.escaped(f"{path}: {outcome}"), file=failures)
    except KeyboardInterrupt:
        return total, failed, ("stopped", EXIT_INTERRUPTED)
    except SystemExit:
        return total, failed, ("stopped", EXIT_STOPPED)
    except NoAnswer as error:
        return total, failed, (f"{error}; ended", EXIT_SOME_PICTURES_FAILED)
    return total, failed, None


def _paths(arguments: Sequence[str]) -> Iterator[str]:
    """Gives the paths of the command line, or else those on standard input; there must be one."""
    paths = iter(arguments)
    if not arguments and not sys.stdin.isatty():
        lines = (line.removesuffix(b"\n") for line in sys.stdin.buffer)
        # A path of standard input is that of a file, whatever it is called.
        paths = (os.fsdecode(line) if line != b"-" else "./-" for line in lines if line)
    first = next(paths, None)
    if first is None:
        raise WrongUse(
            "no pictures named: expected paths of files or folders, as in whisker-predict"
            " a.jpg, or one per line on standard input"
        )
    return itertools.chain([first], paths)


def _pictures(paths: Iterable[str]) -> Iterator[Named]:
    from serving.predict_inputs import find_pictures

    for path in paths:
        if path == "-":
            yield path, sys.stdin.buffer.read()
        else:
            yield from find_pictures([path])


def _ask(client: PredictClient, pictures: Iterator[Named], wait_s: float) -> Iterator[Answered]:
    from serving.client.errors import ClientError

    found, sent = itertools.tee(pictures)
    answers = client.predict_many(
        picture for _, picture in sent if not isinstance(picture, ClientError)
    )
    for path, picture in found:
        if isinstance(picture, ClientError):
            yield path, picture, picture
        else:
            yield path, picture, _insist(client, picture, next(answers), wait_s)


def _insist(
    client: PredictClient, picture: str | bytes, outcome: Prediction | ClientError, wait_s: float
) -> Prediction | ClientError:
    """Where nobody answered, waits until the server is ready, and asks again.

    Raises:
        NoAnswer: it does not become ready.
    """
    from serving.client import errors

    unanswered = (errors.ServerUnavailable, errors.DeadlineExceeded, errors.ModelNotReady)
    end = time.monotonic() + wait_s
    for _ in range(_MOST_ATTEMPTS if wait_s else 0):
        if not isinstance(outcome, unanswered):
            break
        try:
            _wait(client, end, outcome)
            outcome = client.predict(picture)
        except errors.ClientError as error:
            if time.monotonic() >= end:
                raise NoAnswer(f"no answer for {wait_s:g} s (--wait_s): {outcome}") from error
            outcome = error
    return outcome


def _wait(client: PredictClient, end: float, reason: ClientError) -> None:
    """Waits for the server, and says so unless it is back already."""
    from serving.client.errors import ModelNotReady

    try:
        client.wait_until_ready(_SHORT_WAIT_S)
    except ModelNotReady:
        left_s = max(0.0, end - time.monotonic())
        line = terminal.escaped(f"waiting up to {left_s:.0f} s for the server: {reason}")
        terminal.print_line(line, sys.stderr)
        client.wait_until_ready(left_s)


def _stored(model_dir: str, model_name: str | None) -> tuple[str, str]:
    """Finds the model in a store, before a server loads anything; gives its name, and the
    configuration.
    """
    from serving.store import open_model
    from whisker_ml.files import is_address

    config = f"{model_dir.rstrip('/')}/{contract.MODELS_CONFIG}"
    # What is in a bucket the server looks for itself.
    if not is_address(model_dir) and not Path(config).is_file():
        raise WrongUse(
            f"{config} is not there: expected --model_dir to be a model store with a published"
            " model"
        )
    return open_model(model_dir, model_name or "").model_name, config


if __name__ == "__main__":
    main()

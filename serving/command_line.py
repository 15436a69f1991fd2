"""How every command starts and ends: flags parsed by absl, one line per mistake, the right exit
code.
"""

import importlib
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging

from serving.errors import (
    EXIT_DEFECT,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    MissingExtra,
    WhiskerError,
)

_SILENT = "3"

# Package to extra, for commands that are started without what they need.
_EXTRAS = {
    "tensorflow": "train",
    "keras": "train",
    "matplotlib": "train",
    "jinja2": "train",
    "PIL": "train",
    "tqdm": "client",
    "numpy": "train",
    "tensorflow_serving": "server",
    "grpc": "client",
    "google.protobuf": "client",
    "google.cloud": "store",
    "google.cloud.storage": "store",
    "google": "cloud",
    "yaml": "cloud",
}


def run(main: Callable[[Sequence[str]], int | None], extra: str | None = None) -> None:
    """Parses the flags of the running command, calls `main` with what is left, and exits.

    Args:
        main: gets the program name and the arguments that are no flags; returns an exit code, or
            None for 0.
        extra: that the command as a whole needs, to be named where a package is missing; None: the
            package's own.
    """
    # absl prints the docstring of the started module as its usage; a console script has none of its
    # own.
    sys.modules["__main__"].__doc__ = sys.modules[main.__module__].__doc__
    app.run(lambda arguments: _guarded(main, arguments, extra), flags_parser=_parse)


def import_tensorflow() -> None:
    """Imports TensorFlow without its start-up chatter, unless TF_CPP_MIN_LOG_LEVEL (0 to 2) asks
    for it.

    Its first lines go to standard error before any log level is looked at; they are kept back, and
    shown only where the import fails. For entry points alone.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", _SILENT) != _SILENT:
        return
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
        except BaseException:
            chatter.seek(0)
            os.write(standard_error, chatter.read())
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)


def _parse(arguments: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        _say(str(error).replace("\n", " "))
        sys.exit(EXIT_USAGE)
    except SystemExit:
        # Only --help and its kin leave while flags are parsed. absl lets them exit with 1.
        sys.exit(EXIT_DONE)


def _guarded(
    main: Callable[[Sequence[str]], int | None], arguments: Sequence[str], extra: str | None
) -> int:
    try:
        return main(arguments) or EXIT_DONE
    except WhiskerError as error:
        _say(str(error))
        return error.exit_code
    except ModuleNotFoundError as error:
        name = error.name or ""
        known = _EXTRAS.get(name) or _EXTRAS.get(name.partition(".")[0])
        if known is None:
            traceback.print_exc()
            return EXIT_DEFECT
        _say(str(MissingExtra(name, extra or known)))
        return EXIT_USAGE
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has left. Standard output is closed, so that the interpreter does
        # not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception:
        traceback.print_exc()
        _say("this is a defect of Whisker: please report it with the lines above")
        return EXIT_DEFECT


def _say(text: str) -> None:
    print(f"{Path(sys.argv[0]).name}: error: {text}", file=sys.stderr)

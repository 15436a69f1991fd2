"""Serves models on this machine, with the flags and protocols of tensorflow_model_server.

  whisker-serve --model_config_file=models/models.config --rest_api_port=8501 \\
    --allow_version_labels_for_unavailable_models --demo_page
  whisker-serve --model_base_path=/models/whisker --port=8500 --enable_batching
  whisker-serve --model_config_file=models/models.config --xnnpack

A folder of versions, <model_base_path>/<number>/saved_model.pb, may be local or in a bucket.
"""

import contextlib
import logging
import os
import queue
import resource
import signal
import sys
import threading
import time

from serving.server.flags import EXIT_START_FAILED, parse
from whisker_ml.cli import import_tensorflow
from whisker_ml.contract import PARENT_PROCESS
from whisker_ml.errors import EXIT_USAGE, MissingExtra, WhiskerError
from whisker_ml.machine import ask_loopback_directly
from whisker_ml.terminal import LogLine

# Between two looks at whether the process that started the server is still there.
_LOOK_S = 1.0


def main() -> None:
    """Reads the command line, serves until SIGTERM or SIGINT, and exits: 0, or 255 if the server
    could not start.
    """
    flags = parse(sys.argv[1:], __doc__ or "")
    logging.basicConfig(
        level=logging.INFO,
        # By a way of its own: nothing of it is kept back with what TensorFlow writes there.
        stream=os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace"),
    )
    for handler in logging.root.handlers:
        handler.setFormatter(LogLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    ask_loopback_directly()
    # A connection is a file: as many as the system lets this process have.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # A queue's put is safe in a signal handler; an event's set is not.
    stop: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stop.put(received))
    if flags.request_log_file:
        # Programs that rotate logs send it; the file is made anew without.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if parent := os.environ.get(PARENT_PROCESS):
        threading.Thread(target=_stop_without, args=(int(parent), stop), daemon=True).start()
    try:
        import_tensorflow(flags.verbosity, keras=False)
        from serving.server.model_server import serve
    except ModuleNotFoundError as error:
        print(f"error: {MissingExtra(error.name or 'tensorflow', 'server')}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    try:
        clean = serve(flags, stop)
    except WhiskerError as error:
        print(f"Failed to start server. Error: {error}{_way_out(str(error))}")
        sys.exit(EXIT_START_FAILED)
    if not clean:
        # A thread is still inside TensorFlow: the interpreter would wait for it, or tear the
        # runtime down under it.
        logging.warning("exiting although a request or a load has not ended")
        logging.shutdown()
        os._exit(0)
    sys.exit(0)


def _way_out(error: str) -> str:
    """Adds what to do to a message of tensorflow_model_server that does not say it."""
    if "Request to assign label" in error:
        return "; give --allow_version_labels_for_unavailable_models=true"
    return ""


def _stop_without(parent: int, stop: "queue.SimpleQueue[int]") -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    stop.put(signal.SIGTERM)


if __name__ == "__main__":
    main()

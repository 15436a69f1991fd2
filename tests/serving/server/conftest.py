"""Two small SavedModels, and a real server process that serves them."""

import shutil

import pytest

from tests.serving.server.asking import running, write_config

NUMBERS = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]
NUMBERS += [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A folder with `half/1` (y = x / 2 + 2), `half/2` (y = x / 2 + 3) and `probe/1` (a signature
    for each need).
    """
    import tensorflow as tf

    class Half(tf.Module):
        def __init__(self, offset):
            super().__init__()
            self.offset = tf.Variable(offset)

        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
        def __call__(self, x):
            return {"y": x / 2 + self.offset}

    def shared(name):
        return tf.raw_ops.FIFOQueueV2(component_types=[tf.float32], shared_name=name)

    class Probe(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="s")])
        def describe(self, s):
            rows = tf.fill(tf.shape(s), tf.shape(s)[0])
            return {
                "length": tf.strings.length(s),
                "hash": tf.strings.to_hash_bucket_fast(s, 2**31),
                "rows": rows,
            }

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.float32, name="f"),
                tf.TensorSpec([None], tf.int64, name="i"),
                tf.TensorSpec([None], tf.bool, name="b"),
                tf.TensorSpec([None], tf.string, name="s"),
            ]
        )
        def echo(self, f, i, b, s):
            same = tf.identity
            return {"f": same(f), "i": same(i), "b": same(b), "s": same(s), "s_bytes": same(s)}

        @tf.function(input_signature=[tf.TensorSpec([None], name, name=name) for name in NUMBERS])
        def numbers(self, *values):
            return dict(zip(NUMBERS, map(tf.identity, values), strict=True))

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.float32)]
        )
        def add(self, left, right):
            return {"sum": left + right}

        # `wait` takes no thread while it waits. It ends when `release` has run, which takes its
        # time.
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def wait(self, x):
            tf.raw_ops.QueueEnqueueV2(handle=shared("arrived"), components=[0.0])
            (released,) = tf.raw_ops.QueueDequeueV2(
                handle=shared("released"), component_types=[tf.float32]
            )
            return {"x": x + released}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="seconds")])
        def release(self, seconds):
            tf.raw_ops.QueueEnqueueV2(handle=shared("arrived"), components=[0.0])
            end = tf.timestamp() + tf.cast(seconds[0], tf.float64)
            turns = tf.while_loop(
                lambda _: tf.timestamp() < end, lambda n: [n + 1], [tf.constant(0)]
            )
            for _ in range(2):
                tf.raw_ops.QueueEnqueueV2(handle=shared("released"), components=[0.0])
            return {"seconds": seconds + 0 * tf.cast(turns[0], tf.float32)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def arrived(self, x):
            return {
                "count": (
                    0 * x + tf.cast(tf.raw_ops.QueueSizeV2(handle=shared("arrived")), tf.float32)
                )
            }

    root = tmp_path_factory.mktemp("exported")
    for version, offset in (("1", 2.0), ("2", 3.0)):
        half = Half(offset)
        tf.saved_model.save(half, str(root / "half" / version), signatures=half.__call__)
    probe = Probe()
    tf.saved_model.save(
        probe,
        str(root / "probe" / "1"),
        signatures={
            "serving_default": probe.describe,
            "echo": probe.echo,
            "numbers": probe.numbers,
            "add": probe.add,
            "wait": probe.wait,
            "release": probe.release,
            "arrived": probe.arrived,
        },
    )
    return root


@pytest.fixture(scope="module")
def models(exported, tmp_path_factory):
    """A copy of the models that a module may add to, with a models.config."""
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(exported, root, dirs_exist_ok=True)
    write_config(root)
    return root


@pytest.fixture(scope="module")
def more_flags():
    """Flags that a module's server takes beside the usual ones."""
    return []


@pytest.fixture(scope="module")
def server(models, more_flags, tmp_path_factory):
    """A running server; gives its process with a `client`."""
    arguments = [
        f"--model_config_file={models}/models.config",
        "--model_config_file_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models",
        "--rest_api_timeout_in_ms=5000",
        "--max_num_load_retries=0",
        *more_flags,
    ]
    with running(tmp_path_factory.mktemp("server"), *arguments) as it:
        yield it


@pytest.fixture
def client(server):
    return server.client

"""The contract between exported models, servers and clients: names that both sides spell the same
way.

Two signatures (design of the SavedModel: docs/serving.md, "The served model"):

* ``serving_default``: ``image_bytes`` string [N], encoded pictures as they come;
* ``pixels``: ``pixels`` float32 [N, size, size, 3] in 0…255.

Both answer ``label`` string [N], ``probability`` float32 [N], ``probabilities`` float32 [N, K],
``classes`` string [N, K] in the order of ``probabilities``, ``valid`` bool [N], and, models of
before left out, ``unsure`` bool [N]. An element that is no picture has ``valid`` false, ``unsure``
true, an empty ``label`` and zeros; it is never an error.
"""

SIGNATURE_BYTES = "serving_default"
SIGNATURE_PIXELS = "pixels"

INPUT_BYTES = "image_bytes"
INPUT_PIXELS = "pixels"

OUTPUT_LABEL = "label"
OUTPUT_PROBABILITY = "probability"
OUTPUT_PROBABILITIES = "probabilities"
OUTPUT_CLASSES = "classes"
OUTPUT_VALID = "valid"
OUTPUT_UNSURE = "unsure"
# What models of before answer, too.
FIRST_OUTPUTS = (
    OUTPUT_LABEL,
    OUTPUT_PROBABILITY,
    OUTPUT_PROBABILITIES,
    OUTPUT_CLASSES,
    OUTPUT_VALID,
)
OUTPUTS = (*FIRST_OUTPUTS, OUTPUT_UNSURE)
# What a client asks for that has read the names of the classes.
OUTPUTS_WITHOUT_CLASSES = tuple(name for name in OUTPUTS if name != OUTPUT_CLASSES)

# Two classes whose probabilities differ by less are shown as close.
CLOSE = 0.1

# Trailing metadata of an error about a model that the server does not know: the names of those that
# it has, as JSON. TensorFlow Serving has no way to tell.
MODELS_METADATA = "whisker-models-bin"

DEFAULT_MODEL_NAME = "whisker"
STABLE_LABEL = "stable"
MODELS_CONFIG = "models.config"
SAVED_MODEL_FILE = "saved_model.pb"
# TensorFlow reads the first that is there (loader_impl.py, which names a .cpb too, and opens none).
SAVED_MODEL_FILES = (SAVED_MODEL_FILE, f"{SAVED_MODEL_FILE}txt")
# What travels along with a version; TensorFlow Serving reads one file of it
# (saved_model_warmup_util.h).
EXTRA_FOLDER = "assets.extra"
WARMUP_FILE = f"{EXTRA_FOLDER}/tf_serving_warmup_requests"

# In the environment of a server: the number of the process that started it for itself alone. The
# server stops when that has ended.
PARENT_PROCESS = "WHISKER_PARENT_PROCESS"

DEFAULT_SERVER = "localhost:8500"

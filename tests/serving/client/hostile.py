"""Answers that no honest server gives, and a real gRPC server that gives them."""

import random
import threading
from concurrent import futures

import grpc

from serving.client.tensors import encode
from serving.protos import message
from whisker_ml import contract

PREDICT, METADATA, STATUS = "Predict", "GetModelMetadata", "GetModelStatus"
SERVICES = {PREDICT: "PredictionService", METADATA: "PredictionService", STATUS: "ModelService"}
VERSION = 3


def reply(method):
    """An empty answer."""
    return message(f"tensorflow.serving.{method}Response")()


def predictions(rows=1, classes=("cats", "dogs")):
    """What an honest server answers about so many pictures."""
    response = reply(PREDICT)
    response.model_spec.version.value = VERSION
    chances = [0.75] + [0.25 / (len(classes) - 1)] * (len(classes) - 1)
    for name, values in {
        contract.OUTPUT_LABEL: [classes[0]] * rows,
        contract.OUTPUT_PROBABILITY: [0.75] * rows,
        contract.OUTPUT_PROBABILITIES: [chances] * rows,
        contract.OUTPUT_CLASSES: [classes] * rows,
        contract.OUTPUT_VALID: [True] * rows,
        contract.OUTPUT_UNSURE: [False] * rows,
    }.items():
        response.outputs[name].CopyFrom(encode(values))
    return response


def signatures():
    """What a model of ours takes and answers."""
    found = message("tensorflow.serving.SignatureDefMap")()
    for signature, name, dtype, sizes in (
        (contract.SIGNATURE_BYTES, contract.INPUT_BYTES, 7, [-1]),
        (contract.SIGNATURE_PIXELS, contract.INPUT_PIXELS, 1, [-1, 4, 4, 3]),
    ):
        one = found.signature_def[signature]
        one.inputs[name].dtype = dtype
        for size in sizes:
            one.inputs[name].tensor_shape.dim.add(size=size)
        for output in contract.OUTPUTS:
            one.outputs[output].dtype = 7
    return found


def metadata(found=None):
    """The answer that holds signatures."""
    response = reply(METADATA)
    response.model_spec.version.value = VERSION
    response.metadata["signature_def"].Pack(found or signatures())
    return response


def statuses():
    """One version that is available and one that failed."""
    response = reply(STATUS)
    response.model_version_status.add(version=VERSION, state="AVAILABLE")
    failed = response.model_version_status.add(version=2, state="END")
    failed.status.error_code, failed.status.error_message = 13, "no memory"
    return response


def honest(rows=1):
    """By method, the answer as bytes."""
    found = {PREDICT: predictions(rows), METADATA: metadata(), STATUS: statuses()}
    return {method: answer.SerializeToString() for method, answer in found.items()}


class Hostile:
    """Answers each method with `answers[method]`: bytes, or a function of the context that gives
    them; use it in a `with` block.
    """

    def __init__(self, **options):
        self.answers = honest()
        self.asked = []
        self.seconds_left = []  # of the deadline of each question
        self.released = threading.Event()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(16),
            options=[("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)],
            **options,
        )
        for method, service in SERVICES.items():
            handler = grpc.unary_unary_rpc_method_handler(self._answer(method), None, None)
            generic = grpc.method_handlers_generic_handler(
                f"tensorflow.serving.{service}", {method: handler}
            )
            self._server.add_generic_rpc_handlers((generic,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self._server.stop(None).wait()

    def hang(self, _):
        """An answer that does not come."""
        self.released.wait(30)
        return b""

    def _answer(self, method):
        def answer(_, context):
            self.asked.append(method)
            self.seconds_left.append(context.time_remaining())
            found = self.answers[method]
            return found(context) if callable(found) else found

        return answer


# Mutations: of the bytes, and of the fields of a message.

INTEGERS = (0, 1, -1, 2, 3, 7, 254, 255, 1 << 30, (1 << 31) - 1, -(1 << 31), 3 * 10**9, 1 << 62)
INTEGERS += ((1 << 63) - 1, -(1 << 63), (1 << 64) - 1)
FLOATS = (0.0, -0.0, 1.0, 0.5, -1e-9, 1.5, -1.0, 1e30, float("inf"), float("-inf"), float("nan"))
STRINGS = ("", "cats", "label", "serving_default", "\n\x1b[2J\0", "é" * 5000, "classes", "x")
TEXTS = (b"", b"cats", b"dogs", b"\xff\xfe", b"\n\x1b[2J\0", bytes(1000), b"\x08\x07")


def mutated(draw: random.Random, method, answer):
    """An answer with one to four faults."""
    data = answer
    for _ in range(draw.choice((1, 1, 2, 4))):
        if draw.random() < 0.3:
            data = _of_bytes(draw, data)
            continue
        response = reply(method)
        try:
            response.ParseFromString(data)
        except Exception:
            data = _of_bytes(draw, data)
            continue
        found = message("tensorflow.serving.SignatureDefMap")()
        if method == METADATA and draw.random() < 0.7 and _unpacks(response, found):
            _of_message(draw, found)
            response.metadata["signature_def"].Pack(found)
        else:
            _of_message(draw, response)
        data = response.SerializeToString()
    return data


def _unpacks(response, found):
    try:
        return response.metadata["signature_def"].Unpack(found)
    except Exception:
        return False


def _of_bytes(draw, data):
    data = bytearray(data)
    at = draw.randrange(len(data) + 1)
    kind = draw.randrange(5)
    if kind == 0:
        del data[at:]
    elif kind == 1:
        data[at:at] = draw.randbytes(draw.choice((1, 2, 8, 100)))
    elif kind == 2:
        data += data[at:]
    else:
        for _ in range(draw.choice((1, 1, 3, 10))):
            if data:
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def _of_message(draw, top):
    """Walks to a random field and does something bad to it."""
    at = top
    while True:
        fields = [field for field in at.DESCRIPTOR.fields if draw.random() < 0.5]
        fields = fields or list(at.DESCRIPTOR.fields)
        if not fields:
            return None
        field = draw.choice([field for field, _ in at.ListFields()] or fields)
        if draw.random() < 0.3:
            field = draw.choice(fields)
        value = getattr(at, field.name)
        if field.message_type and field.message_type.GetOptions().map_entry:
            at = _of_map(draw, field, value)
        elif field.is_repeated and field.message_type:
            at = _of_messages(draw, at, field, value)
        elif field.is_repeated:
            return _of_values(draw, at, field, value)
        elif field.message_type:
            if draw.random() < 0.1:
                return at.ClearField(field.name)
            value.SetInParent()
            at = value
        else:
            return _set(draw, at, field)
        if at is None:
            return None


def _of_map(draw, field, value):
    keys = sorted(value)
    kind = draw.random()
    inner = field.message_type.fields_by_name["value"].message_type
    if not inner or not keys or kind < 0.1:
        key = draw.choice(STRINGS)
        return value[key] if inner and draw.random() < 0.5 else None
    key = draw.choice(keys)
    if kind < 0.2:
        del value[key]
        return None
    if kind < 0.3:
        value[draw.choice(STRINGS + tuple(keys))].CopyFrom(value[draw.choice(keys)])
        return None
    return value[key]


def _of_messages(draw, at, field, value):
    kind = draw.random()
    if kind < 0.1:
        at.ClearField(field.name)
        return None
    if kind < 0.3 or not value:
        last = value.add()
        for _ in range(draw.choice((0, 0, 1, 300, 5000))):
            value.add()
        return last
    return value[draw.randrange(len(value))]


def _of_values(draw, at, field, value):
    kind = draw.random()
    if kind < 0.15:
        at.ClearField(field.name)
    elif kind < 0.3 and value:
        value.extend([value[-1]] * draw.choice((1, 2, 1000)))
    elif kind < 0.4 and value:
        del value[draw.randrange(len(value)) :]
    elif kind < 0.5 or not value:
        value.append(_evil(draw, field))
    else:
        value[draw.randrange(len(value))] = _evil(draw, field)


def _set(draw, at, field):
    setattr(at, field.name, _evil(draw, field))


def _evil(draw, field):
    if field.enum_type:
        return draw.choice((*range(35), 101, 107, 1 << 30))
    kinds = {
        field.CPPTYPE_BOOL: (True, False),
        field.CPPTYPE_FLOAT: FLOATS,
        field.CPPTYPE_DOUBLE: FLOATS,
        field.CPPTYPE_STRING: TEXTS if field.type == field.TYPE_BYTES else STRINGS,
    }
    if field.cpp_type in kinds:
        return draw.choice(kinds[field.cpp_type])
    bits = 32 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 64
    signed = field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_INT64)
    value = draw.choice(INTEGERS) % (1 << bits)
    return value - (1 << bits) if signed and value >> (bits - 1) else value

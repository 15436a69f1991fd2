"""What a server answers, checked against what it was asked before it is believed.

Everything here raises ValueError where an answer is not what was asked for; `expected` makes a
`ClientError` of it.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from serving.client.errors import OTHER_SERVER, InvalidRequest, UnexpectedReply
from serving.client.tensors import (
    ARRAY_KINDS,
    BOOL,
    FLOAT,
    STRING,
    Kind,
    Part,
    decode,
    decode_array,
    decode_lists,
    inner_lists,
    input_parts,
    is_array,
    shape_of,
)
from serving.protos import message
from whisker_ml import contract

# What gRPC itself receives unless it is told otherwise: enough for a model's metadata or status, or
# for what is said of one picture. A message made for that takes 90 times as much once it is parsed.
MOST_BYTES = 4 << 20


@contextmanager
def expected(question: str, remedy: str = OTHER_SERVER) -> Iterator[None]:
    """Turns what is wrong with an answer into a ClientError.

    Args:
        question: who was asked for what, for the text.
        remedy: what to look at.

    Raises:
        UnexpectedReply: what is inside raised a ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise UnexpectedReply(f"{question} answers with {error}: {remedy}") from error


def parse(name: str, data: bytes | None, most_bytes: int = MOST_BYTES) -> Any:
    """Reads a message of ``tensorflow.serving``; longer ones are not looked at."""
    if data is None:  # What grpc.aio gives where the status OK comes without a message.
        raise ValueError("nothing")
    if len(data) > most_bytes:
        raise ValueError(f"{len(data):,} bytes, more than the {most_bytes:,} that are allowed")
    try:
        return message(f"tensorflow.serving.{name}").FromString(data)
    except DecodeError as error:
        raise ValueError(f"something that is not a {name}") from error


def version_of(response: Any, asked: Any = None) -> int:
    """Gives the version that answered.

    Args:
        response: with a model_spec.
        asked: the ModelSpec that was asked; None: any.
    """
    spec = response.model_spec
    version: int = spec.version.value
    if not spec.HasField("version") or version < 0:
        raise ValueError("no version")
    if asked is not None and asked.HasField("version") and version != asked.version.value:
        raise ValueError(f"version {version} where version {asked.version.value} was asked for")
    return version


def state_of(status: Any) -> str:
    """Gives the state in a ModelVersionStatus: START, LOADING, AVAILABLE, UNLOADING, END, or
    UNKNOWN.
    """
    states = {number: name for name, number in status.State.items()}
    return states.get(status.state, states[0])


# A model's signatures, and whether a request is what one of them wants; said before it is sent.


Signatures = Mapping[str, Any]  # Name → tensorflow.SignatureDef.

SIGNATURES = "signature_def"


def signatures_of(response: Any) -> Signatures:
    """Reads the signatures in the answer to a GetModelMetadataRequest for `SIGNATURES`."""
    found = message("tensorflow.serving.SignatureDefMap")()
    try:
        if SIGNATURES not in response.metadata or not response.metadata[SIGNATURES].Unpack(found):
            raise ValueError("no signatures")
    except DecodeError as error:
        raise ValueError("something that is not a map of signatures") from error
    signatures: Signatures = found.signature_def
    return signatures


def signature_parts(
    inputs: Mapping[str, Any],
    output_filter: Collection[str],
    signatures: Signatures,
    name: str,
    question: str,
) -> tuple[list[Part], Any]:
    """Serializes the inputs of a PredictRequest in the types that its signature wants; gives that
    too.

    Args:
        inputs: name → what `serving.client.tensors.tensor_parts` takes.
        output_filter: outputs to be asked for.
        signatures: of the version that is asked.
        name: of the signature; empty: `serving_default`.
        question: who is asked for what, for the error.

    Raises:
        InvalidRequest: there is no such signature, or it wants other names, types or sizes of
            pictures; the text says which.
    """
    name = name or contract.SIGNATURE_BYTES
    if name not in signatures:
        raise InvalidRequest(
            f"{question}: no signature {name!r}: the model has {_listed(signatures)}"
        )
    signature = signatures[name]
    wanted = signature.inputs
    if not set(wanted) - set(signature.defaults) <= set(inputs) <= set(wanted):
        raise InvalidRequest(f"{question}: inputs {_listed(inputs)}: {_wants(name, signature)}")
    if unknown := set(output_filter) - set(signature.outputs):
        outputs = describe(signature.outputs)
        raise InvalidRequest(
            f"{question}: outputs {_listed(unknown)}: signature {name!r} answers {outputs}"
        )
    parts: list[Part] = []
    for key, values in inputs.items():
        try:
            parts += input_parts(key, values, wanted[key].dtype)
        except ValueError as error:
            raise InvalidRequest(
                f"{question}: input {key!r} is {error}: {_wants(name, signature)}"
            ) from error
        if name == contract.SIGNATURE_PIXELS and is_array(values):
            _check_sizes(values.shape, wanted[key].tensor_shape, question)
    return parts, signature


def _wants(name: str, signature: Any) -> str:
    return f"signature {name!r} takes {describe(signature.inputs)}"


def _check_sizes(shape: tuple[int, ...], stated: Any, question: str) -> None:
    """Refuses pictures of another size: a server passes any shape to the model, which fails in
    words of its own.
    """
    sizes = [dimension.size for dimension in stated.dim]
    fits = len(sizes) == len(shape) and all(a in (-1, b) for a, b in zip(sizes, shape, strict=True))
    if not stated.unknown_rank and not fits:
        raise InvalidRequest(
            f"{question}: pictures of shape {list(shape)}: expected {_shape(stated)}"
        )


def describe(tensors: Mapping[str, Any]) -> str:
    """Says names, types and shapes of a signature's inputs or outputs, such as ``x float32 [?,
    1]``.
    """
    return ", ".join(
        f"{name} {_name(info.dtype)} {_shape(info.tensor_shape)}"
        for name, info in sorted(tensors.items())
    )


def _name(dtype: int) -> str:
    return ARRAY_KINDS[dtype].name if dtype in ARRAY_KINDS else f"type {dtype}"


def _shape(shape: Any) -> str:
    if shape.unknown_rank:
        return "of any shape"
    return f"[{', '.join('?' if one.size == -1 else str(one.size) for one in shape.dim)}]"


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"


# More lists than an answer has bytes are nothing that a model answers, but for a few empty ones.
_FEW_LISTS = 100_000


def outputs_of(response: Any, asked: Collection[str], *, arrays: bool) -> dict[str, Any]:
    """Reads what any model answers, as NumPy arrays or as lists; `asked` are the outputs that were
    asked for, none: all.
    """
    outputs = response.outputs
    if asked and set(asked) != set(outputs):
        raise ValueError(f"outputs {_listed(outputs)} where {_listed(asked)} were asked for")
    if arrays:
        return {name: decode_array(tensor) for name, tensor in outputs.items()}
    if sum(map(inner_lists, outputs.values())) > response.ByteSize() + _FEW_LISTS:
        raise ValueError(
            "more lists than bytes; with a NumPy array as input, arrays would come back"
        )
    return {name: decode_lists(tensor) for name, tensor in outputs.items()}


# Predictions: what the signatures of `whisker_ml.contract` answer.


@dataclass(frozen=True)
class Prediction:
    """What the model says about one picture.

    Attributes:
        label: the most probable class.
        probability: its probability, 0 to 1.
        probabilities: the probability of every class, 0 to 1, in the model's order of classes.
        model_version: the version that answered.
        unsure: the model is not sure of its answer: it is too close to call, or the picture is
            unlike all that the model has learnt; None: a version of before, which does not say.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    model_version: int
    unsure: bool | None = None


# How far probabilities may be from adding up to 1, and two ways to say one from each other: more
# than float32 loses over ten thousand classes, less than anybody would read in them.
_SLACK = 0.01


def classes_of(response: Any, count: int) -> tuple[str, ...]:
    """Reads the names of the classes, which are said anew for each of `count` pictures."""
    names = _output(response, contract.OUTPUT_CLASSES, STRING, (count, None))
    classes = names[: len(names) // count]
    if classes * count != names or len(set(classes)) != len(classes):
        raise ValueError("other classes for every picture, or one of them twice")
    return tuple(map(_text, classes))


def predictions_of(
    response: Any, version: int, classes: tuple[str, ...], count: int
) -> list[Prediction | None]:
    """Reads what is said of `count` pictures; None for each that is none."""
    valid = _output(response, contract.OUTPUT_VALID, BOOL, (count,))
    labels = _output(response, contract.OUTPUT_LABEL, STRING, (count,))
    best = _output(response, contract.OUTPUT_PROBABILITY, FLOAT, (count,))
    every = _output(response, contract.OUTPUT_PROBABILITIES, FLOAT, (count, len(classes)))
    unsure: list[bool | None] = [None] * count
    if contract.OUTPUT_UNSURE in response.outputs:
        unsure = _output(response, contract.OUTPUT_UNSURE, BOOL, (count,))
    outcomes: list[Prediction | None] = []
    probabilities = iter(every)
    for is_picture, label, probability, not_sure in zip(valid, labels, best, unsure, strict=True):
        by_class = dict(zip(classes, probabilities, strict=False))
        found = Prediction(_text(label), probability, by_class, version, not_sure)
        if is_picture:
            _check(found)
        outcomes.append(found if is_picture else None)
    return outcomes


def _check(found: Prediction) -> None:
    """Refuses numbers that are no probabilities, NaN among them, and a label that is not theirs."""
    every = found.probabilities.values()
    if not all(-_SLACK <= one <= 1 + _SLACK for one in every) or abs(sum(every) - 1) > _SLACK:
        raise ValueError(f"values that are not probabilities: {list(every)}")
    if found.label not in found.probabilities:
        raise ValueError(f"label {found.label!r}, which is not among its classes")
    its = found.probabilities[found.label]
    if not abs(found.probability - its) <= _SLACK or max(every) - its > _SLACK:
        raise ValueError(
            f"label {found.label!r} with probability {found.probability:g} where the probabilities"
            f" are {list(every)}"
        )


def _output(response: Any, name: str, kind: Kind, shape: tuple[int | None, ...]) -> list[Any]:
    # Looking a missing name up in a message map adds it.
    if name not in response.outputs:
        raise ValueError(f"no output {name!r}")
    tensor = response.outputs[name]
    sizes = shape_of(tensor)
    if (
        tensor.dtype != kind.number
        or len(sizes) != len(shape)
        or any(size not in (None, found) for size, found in zip(shape, sizes, strict=True))
    ):
        wanted = ["?" if size is None else size for size in shape]
        raise ValueError(f"{name} as {_name(tensor.dtype)} {sizes}, not {kind.name} {wanted}")
    return decode(tensor)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"a class that is not UTF-8: {value!r}") from error

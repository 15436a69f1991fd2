"""What a model's signatures want, and whether a request is that; said before anything is sent."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from serving.client import messages
from serving.client.errors import InvalidRequest, UnexpectedReply
from serving.client.messages import KINDS, Part
from serving.protos import message
from whisker_ml import contract


@dataclass(frozen=True)
class Signature:
    """One way to ask a model; names of inputs and outputs → tensorflow.TensorInfo."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    needed: frozenset[str]  # the inputs without a default


Signatures = Mapping[str, Signature]

_FIELD = "signature_def"


def metadata_request(model_spec: Any) -> Any:
    """Makes the GetModelMetadataRequest that `read` reads the answer of; the spec's signature does
    not matter.
    """
    return message("tensorflow.serving.GetModelMetadataRequest")(
        model_spec=model_spec, metadata_field=[_FIELD]
    )


def read(response: Any) -> Signatures:
    """Reads a GetModelMetadataResponse.

    Returns:
        The signatures by name.

    Raises:
        UnexpectedReply: it holds no signatures.
    """
    found = message("tensorflow.serving.SignatureDefMap")()
    if _FIELD not in response.metadata or not response.metadata[_FIELD].Unpack(found):
        raise UnexpectedReply(
            "the server answers without the model's signatures: it is no TensorFlow Serving server"
        )
    return {
        name: Signature(
            dict(one.inputs), dict(one.outputs), frozenset(set(one.inputs) - set(one.defaults))
        )
        for name, one in found.signature_def.items()
    }


def input_parts(
    inputs: Mapping[str, Any],
    output_filter: Collection[str],
    signatures: Signatures,
    name: str,
    asked: str,
) -> list[Part]:
    """Serializes the inputs of a PredictRequest in the types that its signature wants.

    Args:
        inputs: name → what `serving.client.messages.tensor_parts` takes.
        output_filter: outputs to be asked for.
        signatures: of the version that is asked.
        name: of the signature; empty: `serving_default`.
        asked: who is asked for what, for the error.

    Raises:
        InvalidRequest: there is no such signature, or it wants other names, types or sizes of
            pictures; the text says which.
    """
    name = name or contract.SIGNATURE_BYTES
    if name not in signatures:
        raise InvalidRequest(f"{asked}: no signature {name!r}: the model has {_listed(signatures)}")
    signature = signatures[name]
    wanted = signature.inputs
    if not signature.needed <= inputs.keys() <= wanted.keys():
        raise InvalidRequest(f"{asked}: inputs {_listed(inputs)}: {_wants(name, signature)}")
    if unknown := set(output_filter) - signature.outputs.keys():
        outputs = describe(signature.outputs)
        raise InvalidRequest(
            f"{asked}: outputs {_listed(unknown)}: signature {name!r} answers {outputs}"
        )
    parts: list[Part] = []
    for key, values in inputs.items():
        try:
            parts += messages.input_parts(key, values, wanted[key].dtype)
        except ValueError as error:
            raise InvalidRequest(
                f"{asked}: input {key!r} is {error}: {_wants(name, signature)}"
            ) from error
        if name == contract.SIGNATURE_PIXELS and messages.is_array(values):
            _check_sizes(values.shape, wanted[key].tensor_shape, asked)
    return parts


def _wants(name: str, signature: Signature) -> str:
    return f"signature {name!r} takes {describe(signature.inputs)}"


def _check_sizes(shape: tuple[int, ...], stated: Any, asked: str) -> None:
    """Refuses pictures of another size: a server passes any shape to the model, which fails in
    words of its own.
    """
    sizes = [dimension.size for dimension in stated.dim]
    fits = len(sizes) == len(shape) and all(a in (-1, b) for a, b in zip(sizes, shape, strict=True))
    if not stated.unknown_rank and not fits:
        raise InvalidRequest(f"{asked}: pictures of shape {list(shape)}: expected {_shape(stated)}")


def describe(tensors: Mapping[str, Any]) -> str:
    """Says names, types and shapes of a signature's inputs or outputs, such as ``x float32 [?,
    1]``.
    """
    return ", ".join(
        f"{name} {KINDS[info.dtype].name if info.dtype in KINDS else f'type {info.dtype}'}"
        f" {_shape(info.tensor_shape)}"
        for name, info in sorted(tensors.items())
    )


def _shape(shape: Any) -> str:
    if shape.unknown_rank:
        return "of any shape"
    return f"[{', '.join('?' if one.size == -1 else str(one.size) for one in shape.dim)}]"


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"

"""What a model's signatures want, and whether a request is that; said before anything is sent."""

from collections.abc import Collection, Mapping
from typing import Any

from serving.client.errors import InvalidRequest, UnexpectedReply
from serving.client.messages import KINDS, fill, shape_of
from serving.protos import message

Signatures = Mapping[str, Any]

_FIELD = "signature_def"
_UNSTATED = "serving_default"  # What a request without a signature's name asks.


def metadata_request(model_spec: Any) -> Any:
    """Makes the GetModelMetadataRequest that `read` reads the answer of; the spec's signature does not matter."""
    return message("tensorflow.serving.GetModelMetadataRequest")(model_spec=model_spec, metadata_field=[_FIELD])


def read(response: Any) -> Signatures:
    """Reads a GetModelMetadataResponse.

    Returns:
        Signature → tensorflow.SignatureDef.

    Raises:
        UnexpectedReply: it holds no signatures.
    """
    found = message("tensorflow.serving.SignatureDefMap")()
    if _FIELD not in response.metadata or not response.metadata[_FIELD].Unpack(found):
        raise UnexpectedReply("the server answers without the model's signatures: it is no TensorFlow Serving server")
    return found.signature_def


def fill_request(request: Any, inputs: Mapping[str, Any], signatures: Signatures, asked: str) -> None:
    """Writes inputs into a PredictRequest, in the types that its signature wants.

    Args:
        request: its model_spec and output_filter are set.
        inputs: name → what `serving.client.messages.encode` takes.
        signatures: of the version that is asked.
        asked: who is asked for what, for the error.

    Raises:
        InvalidRequest: there is no such signature, or it wants other names or types; the text says which.
    """
    name = request.model_spec.signature_name or _UNSTATED
    if name not in signatures:
        raise InvalidRequest(f"{asked}: no signature {name!r}: the model has {_listed(signatures)}")
    signature = signatures[name]
    wanted = f"signature {name!r} takes {describe(signature.inputs)}"
    needed = set(signature.inputs) - set(signature.defaults)
    if not needed <= set(inputs) <= set(signature.inputs):
        raise InvalidRequest(f"{asked}: inputs {_listed(inputs)}: {wanted}")
    if unknown := set(request.output_filter) - set(signature.outputs):
        raise InvalidRequest(
            f"{asked}: outputs {_listed(unknown)}: signature {name!r} answers {describe(signature.outputs)}"
        )
    for key, values in inputs.items():
        try:
            fill(request.inputs[key], values, signature.inputs[key].dtype)
        except ValueError as error:
            raise InvalidRequest(f"{asked}: input {key!r} is {error}: {wanted}") from error


def check_shape(request: Any, key: str, signatures: Signatures, asked: str) -> None:
    """Refuses an input of another shape than its signature states: the server would pass it to the model unseen.

    Raises:
        InvalidRequest: the text says both shapes.
    """
    stated = signatures[request.model_spec.signature_name].inputs[key].tensor_shape
    shape = shape_of(request.inputs[key])
    sizes = [dimension.size for dimension in stated.dim]
    fits = len(sizes) == len(shape) and all(a in (-1, b) for a, b in zip(sizes, shape, strict=True))
    if not stated.unknown_rank and not fits:
        raise InvalidRequest(f"{asked}: pictures of shape {shape}: expected {_shape(stated)}, pictures of that size")


def describe(tensors: Mapping[str, Any]) -> str:
    """Says names, types and shapes of a signature's inputs or outputs, such as ``x float32 [?, 1]``."""
    return ", ".join(
        f"{name} {KINDS[info.dtype].name if info.dtype in KINDS else f'type {info.dtype}'} {_shape(info.tensor_shape)}"
        for name, info in sorted(tensors.items())
    )


def _shape(shape: Any) -> str:
    if shape.unknown_rank:
        return "of any shape"
    return f"[{', '.join('?' if one.size == -1 else str(one.size) for one in shape.dim)}]"


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"

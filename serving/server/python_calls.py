"""Refuses models that call Python.

A SavedModel holds the call of tf.py_function or tf.numpy_function, but not the function, which is
in the process that exported it alone.
"""

from collections.abc import Iterable, Iterator

import grpc
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, TensorInfo
from tensorflow.python.saved_model.constants import LEGACY_INIT_OP_KEY, MAIN_OP_KEY

from serving.server.status import StatusError

_OPERATIONS = {"EagerPyFunc", "PyFunc", "PyFuncStateless"}


def check(meta_graph: MetaGraphDef, path: str) -> None:
    """Refuses a model whose signatures or initialization call Python; TensorFlow would load it and
    fail at each request, with a traceback.

    Args:
        meta_graph: of the SavedModel.
        path: its folder, for the text.

    Raises:
        StatusError: UNIMPLEMENTED, with what calls it.
    """
    graph = meta_graph.graph_def
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    if not any(node.op in _OPERATIONS for body in bodies for node in body):
        return
    # Also functions that no signature uses are in a SavedModel: those do not matter.
    outputs = {
        f"signature {name}": [one for info in signature.outputs.values() for one in _names(info)]
        for name, signature in sorted(meta_graph.signature_def.items())
    }
    outputs["initialization"] = [
        name
        for key in (MAIN_OP_KEY, LEGACY_INIT_OP_KEY)
        if key in meta_graph.collection_def
        for name in meta_graph.collection_def[key].node_list.value
    ]
    for part, names in outputs.items():
        for node in _used(graph, names):
            if node.op in _OPERATIONS:
                raise StatusError(
                    grpc.StatusCode.UNIMPLEMENTED,
                    f"{path} cannot be served: its {part} calls Python (node {node.name}, of"
                    " tf.py_function or tf.numpy_function), which a SavedModel does not hold; use"
                    " TensorFlow's own operations and export it again",
                )


def _names(info: TensorInfo) -> Iterator[str]:
    yield info.name
    yield info.coo_sparse.values_tensor_name
    yield info.coo_sparse.indices_tensor_name
    for component in info.composite_tensor.components:
        yield from _names(component)


def _used(graph: GraphDef, names: Iterable[str]) -> Iterator[NodeDef]:
    """Gives the nodes on which tensors rest, with those of the functions that they call."""
    nodes = {node.name: node for node in graph.node}
    waiting, used = list(names), []
    while waiting:
        node = nodes.pop(waiting.pop().lstrip("^").partition(":")[0], None)
        if node is not None:
            used.append(node)
            waiting += node.input
    functions = {function.signature.name: function.node_def for function in graph.library.function}
    while used:
        node = used.pop()
        yield node
        called = [f.name for value in node.attr.values() for f in (value.func, *value.list.func)]
        for name in [node.op, *called]:
            used += functions.pop(name, [])

"""A TF1 SavedModel with Classify, Regress and Predict heads on serialized tf.Examples, some of them
badly made.
"""

import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
PREDICT = "tensorflow/serving/predict"


def export_heads(path):
    """Writes it: scores are [x, 1 - x], the value is x / 2 + 2 + shift, y = x / 2 + 2 for
    Predict.
    """
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None], name="tf_example")
        others = v1.placeholder(tf.string, [None], name="other_example")
        floats = v1.placeholder(tf.float32, [None, 1], name="x")
        added = v1.placeholder(tf.float32, [None], name="a")
        half = v1.get_variable("half", initializer=0.5)
        features = v1.parse_example(
            examples,
            {
                "x": tf.io.FixedLenFeature([], tf.float32),
                "shift": tf.io.FixedLenFeature([], tf.float32, default_value=0.0),
            },
        )
        x = features["x"]
        scores = tf.stack([x, 1 - x], axis=1)
        classes = tf.tile(tf.constant([["cats", "dogs"]]), [tf.size(x), 1])
        value = half * x + 2 + features["shift"]

        def signature(method, inputs, outputs):
            info = v1.saved_model.build_tensor_info
            return SignatureDef(
                method_name=method,
                inputs={alias: info(tensor) for alias, tensor in inputs.items()},
                outputs={alias: info(tensor) for alias, tensor in outputs.items()},
            )

        def classify(**outputs):
            return signature(CLASSIFY, {"inputs": examples}, outputs)

        def regress(**outputs):
            return signature(REGRESS, {"inputs": examples}, outputs)

        signatures = {
            "serving_default": signature(PREDICT, {"x": floats}, {"y": half * floats + 2}),
            "add": signature(PREDICT, {"p": floats, "q": added}, {"sum": added + floats}),
            "examples": signature(PREDICT, {"examples": examples}, {"value": value}),
            "optional": signature(PREDICT, {"a": added, "x": floats}, {"sum": added + floats}),
            "classify": classify(classes=classes, scores=scores),
            "labels": classify(classes=classes),
            "scores": classify(scores=scores),
            "regress": regress(outputs=value),
            "regress_column": regress(outputs=value[:, tf.newaxis]),
            "elsewhere": signature(
                REGRESS, {"inputs": others}, {"outputs": tf.zeros([tf.size(others)])}
            ),
            "bad_two_inputs": signature(
                CLASSIFY, {"inputs": examples, "more": others}, {"scores": scores}
            ),
            "bad_three_outputs": classify(classes=classes, scores=scores, more=scores),
            "bad_input_name": signature(CLASSIFY, {"x": examples}, {"outputs": scores}),
            "bad_output_names": classify(other=scores),
            "bad_rank": classify(scores=x),
            "bad_scores_type": classify(scores=tf.cast(scores, tf.float64)),
            "bad_classes_type": classify(classes=scores),
            "bad_scores_rows": classify(scores=scores[:1]),
            "bad_columns": classify(classes=classes, scores=scores[:, :1]),
            "bad_value_shape": regress(outputs=scores),
            "bad_value_rows": regress(outputs=value[:1]),
            "bad_value_type": regress(outputs=tf.cast(value, tf.int32)),
            "bad_float_input": signature(
                CLASSIFY, {"inputs": floats}, {"scores": tf.identity(floats)}
            ),
        }
        signatures["optional"].defaults["a"].CopyFrom(tf.make_tensor_proto([10.0]))
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session, [tf.saved_model.SERVING], signature_def_map=signatures
        )
        builder.save()


def export_functions(path):
    """Writes some of those heads with TensorFlow 2: each signature has an input of its own."""
    examples = tf.TensorSpec([None], tf.string)

    class Functions(tf.Module):
        @tf.function(input_signature=[examples])
        def regress(self, inputs):
            return {"outputs": self.read(inputs) / 2 + 2}

        @tf.function(input_signature=[examples])
        def elsewhere(self, inputs):
            return {"outputs": tf.zeros([tf.size(inputs)])}

        @tf.function(input_signature=[examples])
        def scores(self, inputs):
            x = self.read(inputs)
            return {"scores": tf.stack([x, 1 - x], axis=1)}

        def read(self, inputs):
            return tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]

    functions = Functions()
    names = ("regress", "elsewhere", "scores")
    tf.saved_model.save(functions, str(path), {name: getattr(functions, name) for name in names})


def example(**features):
    """A tf.Example of float features."""
    return tf.train.Example(
        features={
            "feature": {
                name: {"float_list": {"value": [value]}} for name, value in features.items()
            }
        }
    )


def given(*values):
    """An Input with an example per value."""
    return {"example_list": {"examples": [example(x=value) for value in values]}}

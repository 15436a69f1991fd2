#!/bin/sh
# Asks over gRPC, with grpcurl: examples/ask_grpcurl.sh localhost:8500 a.jpg [model]
# grpcurl reads the messages from the descriptor set, as any other language can; without -protoset it asks the server for them.
set -eu
picture=$(base64 < "$2" | tr -d '\n')
cat <<JSON | grpcurl -plaintext -protoset "$(dirname "$0")/../serving/protos/tensorflow_serving.binpb" -d @ \
  "$1" tensorflow.serving.PredictionService/Predict
{
  "model_spec": {"name": "${3:-whisker}", "version_label": "stable"},
  "inputs": {
    "image_bytes": {
      "dtype": "DT_STRING",
      "tensor_shape": {"dim": [{"size": 1}]},
      "string_val": ["$picture"]
    }
  }
}
JSON

"""The client: pictures out, predictions in, over gRPC; needs grpcio and protobuf, never
TensorFlow.
"""

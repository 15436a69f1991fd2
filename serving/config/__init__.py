"""Configuration files of TensorFlow Serving: read, written and checked through its own messages."""

"""The local server in the image of tensorflow_model_server: ``whisker-serve``."""

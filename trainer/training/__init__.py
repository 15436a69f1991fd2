"""Training: devices and strategy, and the loop that drives a model through its epochs."""

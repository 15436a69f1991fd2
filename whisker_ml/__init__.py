"""What training and serving both stand on; it needs no TensorFlow."""

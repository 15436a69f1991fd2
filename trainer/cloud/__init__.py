"""Runs on machines of a cloud: the only place that knows its products by name."""

"""Evaluation: numbers from predictions, with their intervals."""

"""Data: where pictures come from, which are used, how they are split, and how they reach the
model.
"""

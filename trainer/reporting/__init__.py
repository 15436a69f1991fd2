"""Reporting: draws the pictures of a run and writes its report; computes nothing."""

"""Helpers of the tests: made videos, runs of the command, and what lies beside the checkout."""

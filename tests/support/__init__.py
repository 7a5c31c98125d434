"""Provide helpers of the tests: generated videos, runs of the command and shared test data."""

"""Engines: hand sources to workers and collect their rows. No pixels pass through them."""

"""Turns the inputs that a user names into an ordered list of videos with stable keys; no torch."""

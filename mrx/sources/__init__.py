"""Inputs as the user names them → an ordered list of videos with stable keys; no torch."""

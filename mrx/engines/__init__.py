"""Engines hand out sources to workers and collect rows; no pixel passes through them."""

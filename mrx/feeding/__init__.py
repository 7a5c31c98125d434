"""The way of videos through the stages: in turn, or with decoding, computing and writing at once.

Nothing here knows what a stage does; `mrx.pipeline` hands them in.
"""

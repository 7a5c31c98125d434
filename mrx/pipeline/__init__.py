"""One worker's pipeline: videos through all stages, in sequence or several at once."""

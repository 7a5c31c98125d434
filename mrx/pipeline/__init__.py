"""The work of one worker: videos through all stages, one after another or several at once."""

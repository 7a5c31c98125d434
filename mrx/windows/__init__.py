"""Frames to windows: `plan` says which frames make which window, `Stack` cuts a stream by it."""

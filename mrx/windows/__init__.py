"""Frames to windows: `plan` lists the frames of each window, `stack` cuts a stream by it."""

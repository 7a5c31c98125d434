"""Formulas as pure functions of tensors: differentiable, on any device, without state."""

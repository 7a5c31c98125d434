"""Formulas as pure functions of tensors: any device, differentiable, no state."""

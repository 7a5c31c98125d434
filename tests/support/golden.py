"""Load golden vectors of the appearance methods, and compare results with them."""

import numpy as np
import torch

from support.places import GOLDEN


def load_golden(name):
    """Load the tensors of the golden file ``appearance_{name}.npz``."""
    with np.load(GOLDEN / f"appearance_{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def assert_within(found, expected, share):
    """Assert that the largest error is within a share of the largest expected value."""
    worst = (found - expected).abs().max().item()
    assert worst <= share * expected.abs().max().item()

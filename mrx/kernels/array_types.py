"""Types of the arrays that the kernels for numba take."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

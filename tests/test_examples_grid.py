"""The picture of all methods is what its script makes."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PICTURE = EXAMPLES / "methods.jpg"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="OpenCV 4 writes words in another font")
def test_the_script_makes_the_stored_picture_of_all_methods(tmp_path):
    target = tmp_path / "again.jpg"
    subprocess.run([sys.executable, EXAMPLES / "07_grid.py", target], check=True, timeout=300)
    kept, again = (cv2.imread(str(path)) for path in (PICTURE, target))
    assert kept.shape == again.shape
    assert np.abs(kept.astype(int) - again).mean() < 2
    assert PICTURE.stat().st_size < 400_000

"""Define the rules of the presets with fewer iterations, because the interpreter is slow."""

from dataclasses import replace

from mrx.methods.tvl1 import TVL1_PRESETS

ACCURATE = replace(TVL1_PRESETS["accurate"], zoom=0.5, levels=10, warps=2, inner=9, texture=0.0)
OPENCV = replace(TVL1_PRESETS["opencv"], warps=3, outer=3, inner=5, epsilon=0.06, median=3)

"""Depth of an unrolled TVNet: presets, and checks of its numbers."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

TVNetPreset = Literal["tvnet50", "multiscale"]


class UnrollDepth(NamedTuple):
    """Number of unrolled scales, warps and iterations, and the size ratio of adjacent scales."""

    scales: int
    warps: int
    iterations: int
    zoom: float


TVNET_PRESETS: dict[TVNetPreset, UnrollDepth] = {
    "tvnet50": UnrollDepth(scales=1, warps=1, iterations=50, zoom=0.5),
    "multiscale": UnrollDepth(scales=5, warps=5, iterations=50, zoom=0.5),
}
"""TVNet-50 of the paper, and the default depth of the authors' demo."""


def choose_depth(preset: TVNetPreset, given: Mapping[str, Any]) -> UnrollDepth:
    """Return the depth of a preset, replaced by the given numbers that are not None."""
    chosen = {name: value for name, value in given.items() if value is not None}
    return TVNET_PRESETS[preset]._replace(**chosen)


def check_tvnet_numbers(
    stack: int, depth: UnrollDepth, constants: Mapping[str, float], field_size: tuple[int, int]
) -> None:
    """Raise ValueError if a number is out of range."""
    counts = {
        "stack": stack,
        "scales": depth.scales,
        "warps": depth.warps,
        "iterations": depth.iterations,
    }
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    for name, constant in constants.items():
        if not constant > 0:
            raise ValueError(f"{name}={constant}: must be above 0")
    if not 0 < depth.zoom < 1:
        raise ValueError(f"zoom={depth.zoom}: must be above 0 and below 1")
    height, width = field_size
    if (height > 0) != (width > 0) or min(field_size) < 0:
        raise ValueError(
            f"field_height={height}, field_width={width}: "
            "give both above 0, or both 0 for no initial field"
        )

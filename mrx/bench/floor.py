"""Lower bounds on the bytes and operations of a method, counted from its formula.

Bytes: each frame is read once as uint8, each map is written once. Operations: those of the formula
in float32; a fused multiply-add counts as two, a root or a reciprocal as one. A kernel that
reorders the sums may need fewer. Pyramids and gradients are left out: they are small compared with
the iterations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mrx.methods.spec import Representation
from mrx.ops.pyramid import pyramid_sizes
from mrx.ops.tvnet_solver import level_sizes

ITERATION_OPERATIONS = 56
"""Per pixel and iteration of TV-L1: 15 fused multiply-adds, 10 additions, 8 products,
2 comparisons, 5 special functions, 1 guard."""

WARP_OPERATIONS = 150
"""Per pixel: the bicubic warp of an image and its two gradients, and the residual."""

MEDIAN_COMPARISONS = {1: 0, 3: 38, 5: 175}
"""Side of the median's square → comparisons per pixel of one flow channel."""

TEXTURE_OPERATIONS = 20
"""Per pixel and round: divergence 3, adding the image 2, gradient 2, step 4, norm 5, limit 4."""


@dataclass(frozen=True)
class MapCost:
    """The lower bounds for one map.

    Attributes:
        bytes: bytes read and written
        operations: floating-point operations; None if they depend on the pictures or are not
            counted
    """

    bytes: int
    operations: int | None

    def compute_rates(self, seconds: float) -> dict[str, float]:
        """Return the rates reached if one map takes `seconds`: GB/s and GFLOP/s."""
        rates = {"gb_per_s": self.bytes / seconds / 1e9}
        if self.operations is not None:
            rates["gflop_per_s"] = self.operations / seconds / 1e9
        return rates


def estimate_map_cost(
    name: str, module: Representation, height: int, width: int, *, frames: int, itemsize: int
) -> MapCost:
    """Count the bytes and operations of one map.

    Args:
        name: name of the method
        module: the method's module
        height: height of the frames
        width: width of the frames
        frames: frames read per map: the whole window, or only those that no other map reads
        itemsize: bytes per value of the map
    """
    channels, rows, columns = module.output_shape(height, width)
    colors = 3 if module.color == "rgb" else 1
    moved_bytes = frames * colors * height * width + channels * rows * columns * itemsize
    count_operations = OPERATION_COUNTERS.get(name)
    return MapCost(
        moved_bytes, count_operations(module, height, width) if count_operations else None
    )


def _count_mbpm(module: Any, height: int, width: int) -> int:
    """Count a square filter, and three taps in time, for each color."""
    taps = module.conv_s.weight[0].numel()
    return 3 * height * width * (2 * taps + 5)


def _count_dynamic_image(module: Any, height: int, width: int) -> int | None:
    """Count a weighted sum of the frames; exact pooling iterates, so it has no count."""
    if module.pooling != "approximate":
        return None
    return 3 * height * width * 2 * int(module.length)


def _count_pa(module: Any, height: int, width: int) -> int:
    """Count the convolution of each difference, and the norm over its features."""
    weight = module.shallow_conv.weight
    norm = 3 * len(weight) + 1
    return (module.length - 1) * height * width * (2 * weight.numel() + 3 + norm)


def _count_tvl1(module: Any, height: int, width: int) -> int | None:
    """Count iterations, warps, medians and texture; with early stops there is no count."""
    rules = module.rules
    if rules.epsilon:
        return None
    levels = pyramid_sizes(height, width, zoom=rules.zoom, max_levels=rules.levels)
    medians = rules.outer if rules.median_at == "round" else 1
    warp_operations = (
        rules.outer * rules.inner * ITERATION_OPERATIONS
        + WARP_OPERATIONS
        + medians * 2 * MEDIAN_COMPARISONS[rules.median]
    )
    pairs = (module.length - 1) * rules.warps * warp_operations * sum(h * w for h, w in levels)
    rounds = rules.texture_rounds if rules.texture else 0
    return int(pairs + module.length * rounds * TEXTURE_OPERATIONS * height * width)


def _count_tvnet(module: Any, height: int, width: int) -> int:
    """Count iterations and warps."""
    depth = module.depth
    levels = level_sizes(height, width, max_levels=depth.scales, zoom=depth.zoom)
    warp_operations = depth.iterations * ITERATION_OPERATIONS + WARP_OPERATIONS
    return int((module.length - 1) * depth.warps * warp_operations * sum(h * w for h, w in levels))


OPERATION_COUNTERS: dict[str, Callable[[Any, int, int], int | None]] = {
    "mbpm": _count_mbpm,
    "dynamic-image": _count_dynamic_image,
    "pa": _count_pa,
    "tvl1": _count_tvl1,
    "tvnet": _count_tvnet,
}
"""Method → count of the operations of one map. Third-party methods and matching have none."""

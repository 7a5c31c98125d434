"""Draw pages of weights for papers: kernels as surfaces and maps, and convolution filters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrx.errors import UsageError
from mrx.render.arrays import Picture, Values
from mrx.render.axes import BarKind, axis_height, color_bar, kernel_map, weights_row
from mrx.render.diverging import find_max_magnitude
from mrx.render.filter_grid import filters_to_rgb
from mrx.render.grid import grid
from mrx.render.surface import natural_limits, surface
from mrx.render.text import draw_text, measure_text

# Larger pages take minutes and gigabytes.
_MAX_PIXELS = 10**8
PictureRow = list[Picture | None]


@dataclass(frozen=True)
class PageSize:
    """The sizes of text, cells and gaps on a page; they grow with `scale`."""

    scale: float = 1.0

    @property
    def text_height(self) -> int:
        """Height of a line of text, in pixels."""
        return max(8, round(15 * self.scale))

    @property
    def kernel_size(self) -> int:
        """Side of a kernel's map, in pixels."""
        return max(160, round(300 * self.scale))

    @property
    def filter_size(self) -> int:
        """Side of one filter in a grid, in pixels."""
        return max(8, round(48 * self.scale))

    @property
    def gap(self) -> int:
        """White space between filters, in pixels."""
        return max(2, round(4 * self.scale))


@dataclass(frozen=True)
class KernelPanel:
    """A spatial kernel and its temporal taps.

    Shape:
        - space: ``(k, k)``
        - time: ``(t,)``
    """

    title: str
    space: Values
    time: Values


@dataclass(frozen=True)
class FilterPanel:
    """The filters of one convolution.

    Attributes:
        title: text above the filters
        weights: ``(O, I, H, W)`` or ``(O, I, T, H, W)``
        channel: the input channel that these weights apply to, if they were reduced to one
    """

    title: str
    weights: Values
    channel: int | None = None


def draw_kernels_page(kernels: Sequence[KernelPanel], size: PageSize) -> Picture:
    """Draw kernels side by side as surface, map and temporal taps, with one scale for all."""
    if 16 * len(kernels) * size.kernel_size**2 > _MAX_PIXELS:
        raise UsageError(
            f"--scale {size.scale:g}: the picture of the kernels is too large. Use a smaller scale"
        )
    spaces = [kernel.space for kernel in kernels]
    bound, time_bound = (
        max(map(find_max_magnitude, weight_maps)) or 1.0
        for weight_maps in (spaces, [kernel.time for kernel in kernels])
    )
    limits = natural_limits(*spaces)
    text, surface_size = size.text_height, round(1.3 * size.kernel_size)
    cell = max(4, size.kernel_size // max(np.shape(spaces[0])))
    surfaces: PictureRow = [
        surface(s, limits=limits, bound=bound, size=surface_size, text=text) for s in spaces
    ]
    maps: PictureRow = [kernel_map(s, bound=bound, cell=cell, text=text) for s in spaces]
    length = np.shape(spaces[0])[0] * cell
    maps.append(color_bar(bound, length=length, below=axis_height(text), text=text))
    times: PictureRow = [
        weights_row(kernel.time, bound=time_bound, cell=2 * text, text=text) for kernel in kernels
    ]
    titles = [kernel.title for kernel in kernels]
    if len(kernels) == 1:
        in_time = grid([times], titles=["in time"], height=text)
        return grid([[*surfaces, *maps, in_time]], margin=4 * size.gap, height=text)
    names = ["surface", "heat map", "in time"]
    rows, margin = [surfaces, maps, times], 2 * size.gap
    return grid(rows, names=names, titles=[*titles, ""], margin=margin, height=text)


def draw_filters_page(
    panels: Sequence[FilterPanel], size: PageSize, *, each: bool, same_scale: bool
) -> Picture:
    """Draw the filters of convolutions side by side.

    Args:
        panels: the convolutions
        size: sizes of text, cells and gaps
        each: give each filter its own scale, and draw no color bar
        same_scale: use one scale and one bar for all panels, not one per panel
    """
    _check_page_size(panels, size)
    bounds = [find_max_magnitude(panel.weights) or 1.0 for panel in panels]
    bounds = [max(bounds)] * len(bounds) if same_scale else bounds
    pictures: PictureRow = []
    captions: PictureRow = []
    titles: list[str] = []
    for i, (panel, bound) in enumerate(zip(panels, bounds, strict=True)):
        panel_picture = _draw_panel(panel, bound, size, each=each)
        pictures.append(panel_picture)
        captions.append(_draw_text_line(_describe_panel(panel, each=each), size.text_height))
        titles.append(panel.title)
        if not each and (not same_scale or i == len(panels) - 1):
            pictures.append(_draw_panel_bar(panel, bound, len(panel_picture), size))
            captions.append(None)
            titles.append("")
    margin = 2 * size.gap
    return grid([pictures, captions], titles=titles, margin=margin, height=size.text_height)


def _draw_panel(panel: FilterPanel, bound: float, size: PageSize, *, each: bool) -> Picture:
    cell = _choose_cell_size(panel, size)
    return filters_to_rgb(panel.weights, bound=bound, each=each, cell=cell, gap=size.gap)


def _choose_cell_size(panel: FilterPanel, size: PageSize) -> int:
    return max(1, round(size.filter_size / max(np.shape(panel.weights)[-2:])))


def _draw_panel_bar(panel: FilterPanel, bound: float, panel_height: int, size: PageSize) -> Picture:
    length = max(6 * size.text_height, min(panel_height - 2 * size.text_height, size.kernel_size))
    kind: BarKind = "signed" if np.shape(panel.weights)[1] == 3 else "diverging"
    bar = color_bar(bound, kind=kind, length=length, text=size.text_height)
    return np.pad(bar, [(0, 0), (0, size.text_height), (0, 0)], constant_values=255)


def _describe_panel(panel: FilterPanel, *, each: bool) -> str:
    """Describe a panel's filters: count, size, inputs and the direction of time."""
    count, inputs, *time, height, width = np.shape(panel.weights)
    strips = max(time, default=1) > 1
    words = [f"{count} filters {width}x{height}"]
    if panel.channel is not None:
        words.append(f"input {panel.channel}")
    elif inputs not in (1, 3):
        words.append(f"{inputs} inputs {'downward' if strips else 'to the right'}")
    words += ["time to the right"] if strips else []
    return ", ".join([*words, "each at its own scale"] if each else words)


def _draw_text_line(words: str, text: int) -> Picture:
    """Draw a line of text as a picture of its own."""
    picture = np.full((text, measure_text(words, text)[1], 3), 255, np.uint8)
    draw_text(picture, words, (0, 0), height=text)
    return picture


def _check_page_size(panels: Sequence[FilterPanel], size: PageSize) -> None:
    """Raise UsageError if the page would exceed `_MAX_PIXELS`."""
    pixels = sum(math.prod(np.shape(p.weights)) * _choose_cell_size(p, size) ** 2 for p in panels)
    if pixels > _MAX_PIXELS:
        shapes = ", ".join(f"{p.title} {tuple(np.shape(p.weights))}" for p in panels)
        raise UsageError(
            f"{shapes}: the picture would have over {pixels / 1e6:.0f} million pixels. Draw one "
            "input channel with --channel, or a smaller picture with --scale"
        )

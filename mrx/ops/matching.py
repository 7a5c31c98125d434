"""Matching of feature maps: local correlation, and the position and height of its peak.

Formulas of MotionSqueeze (Kwon et al., Neural Motion Feature Learning for Video Understanding,
ECCV 2020), as in its released code. A cell is a position of the maps. Displacements are in cells,
x right and y down, from the first frame to the second; the released code divides them by
`max_displacement`, to -1..1. Everything is computed in at least float32, also under autocast.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mrx.errors import ShapeError

TieRule = Literal["first", "smallest"]

_EPSILON = 1e-6
_TIE_TOLERANCE = 1e-5  # equal features correlate equally up to this, in float32
_BLOCK_ROWS, _BLOCK_COLUMNS = 4, 32  # cells of a block, timed on maps of 14 to 128 cells a side
# A GPU waits for kernel launches, not for products: it gets fewer, larger blocks.
_GPU_BLOCK_ROWS = 32
# Values held at once, for as many pairs as fit: 16 MB of float32.
_MAX_VALUES = 2**22
_VECTOR_CELLS = 64  # the number of cells that are summed at once, or a multiple of it
# From this many computed products for each one kept, shifting is faster.
_MAX_WASTE = 10


def normalize_features(features: Tensor) -> Tensor:
    """Scale features to length 1 at each cell, ``x / √(Σ_c x_c² + 1e-6)``; zeros stay zeros.

    Shape:
        - features: ``(N, C, H, W)``; output: the same

    >>> normalize_features(torch.tensor([3.0, 0.0, 4.0, 0.0]).view(1, 2, 1, 2))[0, :, 0, 0]
    tensor([0.6000, 0.8000])
    """
    values = features.to(torch.promote_types(features.dtype, torch.float32))
    return values / (values.square().sum(1, keepdim=True) + _EPSILON).sqrt()


def max_displacement(*, patch: int, dilation: int = 1) -> int:
    """Return the largest displacement in cells, the unit of the released code.

    Raises:
        ValueError: the patch is even, or either value is below 1

    >>> max_displacement(patch=15), max_displacement(patch=7, dilation=2)
    (7, 6)
    """
    if patch < 1 or patch % 2 == 0:
        raise ValueError(f"patch={patch}: must be odd and at least 1")
    if dilation < 1:
        raise ValueError(f"dilation={dilation}: must be at least 1")
    return patch // 2 * dilation


def correlate(
    first: Tensor, second: Tensor, *, patch: int, dilation: int = 1, rows: range | None = None
) -> Tensor:
    """Correlate each cell's features with those of the second frame around it.

    ``S[(i + r) patch + (j + r), y, x] = Σ_c first[c, y, x] second[c, y + i d, x + j d]`` for i and
    j in -r..r, with r = ``patch // 2`` and d = ``dilation``; a target outside the map gives 0.

    Both forms of the computation are exact. *Blocks* multiply 4x32 cells by all cells that any of
    them reaches, as one matrix product, and keep a band of it. *Shifts* multiply whole maps, once
    for each displacement. Shifts are used if blocks would compute 10 times what they keep: for a
    patch of 3 on maps of at least 15 cells a side, and for a patch of 5 from 32 cells.

    As many pairs are computed at once as fit 16 MB of float32, at least one. This counts the
    products of a block and its copies of features, or all products of the shifts before their sums.
    Twice the output, and copies of inputs of half precision or for dilation, come on top.

    Args:
        first: features of the frame where displacements start
        second: features of the frame where displacements end
        patch: displacements along each axis, odd
        dilation: cells from one displacement to the next
        rows: rows of the first frame to correlate, None for all; see `split_rows`

    Shape:
        - first, second: ``(N, C, H, W)``
        - output: ``(N, patch * patch, H, W)``, dy outer, dx inner; only `rows`, if given

    Raises:
        ValueError: see `max_displacement`
        ShapeError: the shapes of the maps differ, or the maps have no cells

    >>> row = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    >>> correlate(row, row, patch=3)[0, 3:6, 0]
    tensor([[0., 2., 6.],
            [1., 4., 9.],
            [2., 6., 0.]])
    """
    max_displacement(patch=patch, dilation=dilation)
    check_map_pair(first, second)
    h, w = first.shape[2:]
    rows = range(h) if rows is None else rows
    # Cells only meet cells with equal coordinates modulo the dilation: each phase is its own map.
    # Dilations beyond the map reach no other cell, so they are capped to limit the padding.
    phases = min(dilation, max(h, w))
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    with torch.autocast(first.device.type, enabled=False):
        source, target = (_split_phases(maps.to(dtype), phases) for maps in (first, second))
        phase_rows = range(rows.start // phases, -(-rows.stop // phases))
        maps = _merge_phases(_correlate_in_chunks(source, target, patch, phase_rows), phases)
    skipped_rows = phase_rows.start * phases
    return maps[:, :, rows.start - skipped_rows : rows.stop - skipped_rows, :w]


def split_rows(
    maps: Tensor, *, patch: int, dilation: int = 1, max_values: int = _MAX_VALUES
) -> list[range]:
    """Split the rows of maps into strips whose correlation has at most `max_values` values.

    Correlating strips gives the same bits as correlating all rows at once, except possibly at a
    dilation above 1. A strip has at least one block of `correlate`, and at least 64 rows if the
    width is odd.

    Shape:
        - maps: ``(N, C, H, W)``, with cells

    >>> split_rows(torch.zeros(1, 2, 20, 8), patch=3, max_values=800)
    [range(0, 8), range(8, 16), range(16, 20)]
    """
    n, _, h, w = maps.shape
    # Vectorized sums add the cells that do not fill a vector in another order. For equal bits a
    # strip must begin where a block and a vector begin.
    whole_vectors = next(r for r in (1, 2, 4, 8, 16, 32, 64) if r * w % _VECTOR_CELLS == 0)
    block = math.lcm(dilation * _block_height(maps), whole_vectors)
    strip_height = max(1, max_values // max(1, n * patch**2 * w * block)) * block
    return [range(top, min(h, top + strip_height)) for top in range(0, h, strip_height)]


def check_map_pair(first: Tensor, second: Tensor) -> None:
    """Raise ShapeError for maps that cannot be matched with each other."""
    if first.ndim != 4 or first.shape != second.shape or 0 in first.shape[1:]:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ShapeError(
            f"matching takes two maps of one shape (N, C, H, W), all but N at least 1, got {shapes}"
        )


def soft_argmax(
    correlation: Tensor,
    *,
    patch: int,
    dilation: int = 1,
    sigma: float,
    temperature: float,
    tie: TieRule = "first",
) -> Tensor:
    """Compute the displacement of the correlation peak by the kernel soft-argmax.

    ``Σ_d d softmax_d(temperature · G_d · S_d)`` over the displacements d, where G is 1 at the peak
    of S and decays as a Gaussian. Gradients pass through S, not through the position of the peak.
    If S is 0 for all displacements, the result is 0. If all values of S are equal, the peak and the
    result are arbitrary, unless `tie` is ``smallest``.

    Args:
        correlation: S, from `correlate`, without negative values
        patch: displacements along each axis
        dilation: cells from one displacement to the next
        sigma: sigma of the Gaussian, in displacements, which are `dilation` cells apart
        temperature: factor of the products; larger values give results closer to the peak
        tie: rule for equal peaks: take the ``first``, as released, or the ``smallest``
            displacement among all within 1e-5 of the largest value

    Shape:
        - correlation: ``(N, patch * patch, H, W)``
        - output: ``(N, 2, H, W)``: x, y in cells; the released code divides by `max_displacement`
    """
    max_displacement(patch=patch, dilation=dilation)
    if correlation.ndim != 4 or correlation.shape[1] != patch * patch:
        shape = tuple(correlation.shape)
        raise ShapeError(f"patch={patch}: needs maps (N, {patch * patch}, H, W), got {shape}")
    values = correlation.to(torch.promote_types(correlation.dtype, torch.float32))
    steps = torch.arange(patch, dtype=values.dtype, device=values.device) - patch // 2
    peak = _find_peak(values.detach(), steps, tie)
    gaussians = [
        (-(steps.view(-1, 1, 1) - steps[index][:, None]).square() / (2 * sigma**2)).exp()
        for index in (peak // patch, peak % patch)
    ]
    down, across = gaussians  # the Gaussian's factors, (N, patch, H, W) each
    square = values.reshape(len(values), patch, patch, *values.shape[2:])
    logits = square * (temperature * down)[:, :, None] * across[:, None]
    weights = logits.flatten(1, 2).softmax(1).view(square.shape)
    cells = dilation * steps.view(-1, 1, 1)
    x, y = ((weights.sum(axis) * cells).sum(1) for axis in (1, 2))
    return torch.stack([x, y], 1)


def peak_confidence(correlation: Tensor) -> Tensor:
    """Return the height of the peak, at least 0; for features of length 1 a cosine in 0..1.

    Shape:
        - correlation: ``(N, D, H, W)``, of all displacements
        - output: ``(N, 1, H, W)``
    """
    if correlation.ndim != 4 or correlation.shape[1] == 0:
        shape = tuple(correlation.shape)
        raise ShapeError(f"confidence takes maps (N, D, H, W), D at least 1, got {shape}")
    return correlation.max(1, keepdim=True).values.relu()


def pair_up(features: Tensor, segments: int) -> tuple[Tensor, Tensor]:
    """Pair the features of each frame with those of the next frame in its clip.

    Shape:
        - features: ``(B * segments, C, H, W)``, the frames of each clip in order
        - output: ``(B * (segments - 1), C, H, W)`` twice

    Raises:
        ShapeError: the frames do not form whole clips

    >>> first, second = pair_up(torch.arange(6).view(6, 1, 1, 1), 3)
    >>> first.flatten().tolist(), second.flatten().tolist()
    ([0, 1, 3, 4], [1, 2, 4, 5])
    """
    _check_segment_count(segments)
    if features.ndim != 4 or len(features) % segments:
        shape = tuple(features.shape)
        raise ShapeError(f"matching takes features (B * {segments}, C, H, W), got {shape}")
    clips = features.reshape(len(features) // segments, segments, *features.shape[1:])
    return clips[:, :-1].flatten(0, 1), clips[:, 1:].flatten(0, 1)


def repeat_last(maps: Tensor, segments: int) -> Tensor:
    """Turn maps of pairs into maps of frames, repeating the last pair's for the last frame.

    Shape:
        - maps: ``(B * (segments - 1), C, H, W)``; output: ``(B * segments, C, H, W)``

    Raises:
        ShapeError: the maps do not form whole clips

    >>> repeat_last(torch.arange(4).view(4, 1, 1, 1), 3).flatten().tolist()
    [0, 1, 1, 2, 3, 3]
    """
    _check_segment_count(segments)
    if len(maps) % (segments - 1):
        shape = tuple(maps.shape)
        raise ShapeError(
            f"clips of {segments} frames have maps (B * {segments - 1}, ...), got {shape}"
        )
    clips = maps.reshape(len(maps) // (segments - 1), segments - 1, *maps.shape[1:])
    return torch.cat([clips, clips[:, -1:]], 1).flatten(0, 1)


def _check_segment_count(segments: int) -> None:
    if segments < 2:
        raise ShapeError(f"segments={segments}: a pair needs at least 2 frames")


def _find_peak(values: Tensor, steps: Tensor, tie: TieRule) -> Tensor:
    """Return the channel of the largest value, ``(N, H, W)``."""
    largest, first = values.max(1, keepdim=True)
    if tie == "first":
        return first[:, 0]
    # dy² + dx² of each channel; among near-equal peaks the shortest displacement wins.
    distance = steps.square()[:, None] + steps.square()
    near = values >= largest - _TIE_TOLERANCE
    return torch.where(near, distance.view(-1, 1, 1), torch.inf).argmin(1)


def _split_phases(maps: Tensor, phases: int) -> Tensor:
    """Turn each phase, the coordinates with one remainder modulo `phases`, into its own map.

    Shape:
        - maps: ``(N, C, H, W)``; output: ``(N * phases², C, ⌈H / phases⌉, ⌈W / phases⌉)``
    """
    if phases == 1:
        return maps
    n, c, h, w = maps.shape
    high, wide = -(-h // phases), -(-w // phases)
    padded = F.pad(maps, [0, wide * phases - w, 0, high * phases - h])
    split = padded.reshape(n, c, high, phases, wide, phases).permute(0, 3, 5, 1, 2, 4)
    return split.reshape(n * phases**2, c, high, wide)


def _merge_phases(maps: Tensor, phases: int) -> Tensor:
    """Undo `_split_phases`; the padding stays."""
    if phases == 1:
        return maps
    n, d, h, w = maps.shape
    split = maps.reshape(n // phases**2, phases, phases, d, h, w).permute(0, 3, 4, 1, 5, 2)
    return split.reshape(n // phases**2, d, h * phases, w * phases)


def _correlate_in_chunks(source: Tensor, target: Tensor, patch: int, rows: range) -> Tensor:
    """Correlate these rows in the faster form, with as many pairs at once as fit `_MAX_VALUES`."""
    c, _, w = source.shape[1:]
    if _shifting_is_faster(source, patch):
        correlate_chunk, values_per_pair = _correlate_by_shifts, patch**2 * c * len(rows) * w
    else:
        high = _block_height(source)
        correlate_chunk, values_per_pair = (
            _correlate_by_blocks,
            _count_reached_cells(source, block_rows=high, patch=patch)
            * (c + high * _BLOCK_COLUMNS),
        )
    max_pairs = max(1, _MAX_VALUES // values_per_pair)
    parts = zip(torch.split(source, max_pairs), torch.split(target, max_pairs), strict=True)
    return _concatenate_parts(
        [correlate_chunk(sources, targets, patch, rows) for sources, targets in parts], 0
    )


def _shifting_is_faster(maps: Tensor, patch: int) -> bool:
    return _count_reached_cells(maps, block_rows=_BLOCK_ROWS, patch=patch) >= _MAX_WASTE * patch**2


def _count_reached_cells(maps: Tensor, *, block_rows: int, patch: int) -> int:
    """Return the maximum number of cells that a block of this height reaches."""
    h, w = maps.shape[2:]
    return min(h, block_rows + patch - 1) * min(w, _BLOCK_COLUMNS + patch - 1)


def _block_height(maps: Tensor) -> int:
    return _BLOCK_ROWS if maps.device.type == "cpu" else _GPU_BLOCK_ROWS


def _correlate_by_shifts(source: Tensor, target: Tensor, patch: int, rows: range) -> Tensor:
    w = source.shape[3]
    padded = F.pad(target, [patch // 2] * 4)
    strip = source[:, :, rows.start : rows.stop]
    products = [
        (strip * padded[:, :, i + rows.start : i + rows.stop, j : j + w]).sum(1)
        for i in range(patch)
        for j in range(patch)
    ]
    return torch.stack(products, 1)


def _correlate_by_blocks(source: Tensor, target: Tensor, patch: int, rows: range) -> Tensor:
    w, high = source.shape[3], _block_height(source)
    columns = [range(left, min(w, left + _BLOCK_COLUMNS)) for left in range(0, w, _BLOCK_COLUMNS)]
    strip_maps = []
    for top in range(rows.start, rows.stop, high):
        block_rows = range(top, min(rows.stop, top + high))
        strip_maps.append(
            _concatenate_parts(
                [_correlate_block(source, target, patch, block_rows, span) for span in columns], 3
            )
        )
    return _concatenate_parts(strip_maps, 2)


def _correlate_block(
    source: Tensor, target: Tensor, patch: int, rows: range, columns: range
) -> Tensor:
    """Correlate the cells in these rows and columns."""
    h, w = source.shape[2:]
    reached_rows, reached_columns = (
        _reachable_span(span, patch, size) for span, size in ((rows, h), (columns, w))
    )
    source_cells = source[:, :, rows.start : rows.stop, columns.start : columns.stop].flatten(2)
    target_cells = target[
        :, :, reached_rows.start : reached_rows.stop, reached_columns.start : reached_columns.stop
    ].flatten(2)
    # (cells reached, cells of the block): more than the patch around each cell, which is gathered.
    products = torch.bmm(target_cells.transpose(1, 2), source_cells)
    y, outside_y = _locate_targets(rows, reached_rows, patch, source.device)
    x, outside_x = _locate_targets(columns, reached_columns, patch, source.device)
    # (patch, patch, rows, columns), flattened to (patch², cells) below
    index = (y * len(reached_columns))[:, None, :, None] + x[None, :, None, :]
    outside = outside_y[:, None, :, None] | outside_x[None, :, None, :]
    shape = patch**2, len(rows) * len(columns)
    band = products.gather(1, index.view(shape).expand(len(products), -1, -1))
    # Targets outside the map were clamped to some cell inside; their products count as 0.
    kept = band.masked_fill(outside.view(shape), 0)
    return kept.view(len(kept), patch**2, len(rows), len(columns))


def _reachable_span(span: range, patch: int, size: int) -> range:
    """Return the span of cells that these cells reach along an axis, inside the map."""
    return range(max(0, span.start - patch // 2), min(size, span.stop + patch // 2))


def _locate_targets(
    span: range, inside: range, patch: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Locate the target of each displacement along an axis, and flag targets outside.

    Shape:
        - output: ``(patch, len(span))`` twice: indices from the start of `inside`, and flags
    """
    steps = torch.arange(patch, device=device)[:, None] - patch // 2
    place = steps + torch.arange(span.start - inside.start, span.stop - inside.start, device=device)
    last = len(inside) - 1
    return place.clamp(0, last), (place < 0) | (place > last)


def _concatenate_parts(parts: Sequence[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), axis)

"""Arrange pictures in a grid, for papers."""

from collections.abc import Sequence

import numpy as np

from mrx.errors import ShapeError, UsageError
from mrx.render.arrays import Picture
from mrx.render.text import TEXT_HEIGHT, draw_text, measure_text

_LINE_SPACING = 1.25


def grid(
    rows: Sequence[Sequence[Picture | None]],
    *,
    names: Sequence[str] = (),
    titles: Sequence[str] = (),
    margin: int = 4,
    height: int = TEXT_HEIGHT,
) -> Picture:
    """Arrange pictures in rows and columns on white, with row names and column titles.

    A column is as wide as its widest picture and a row as tall as its tallest; smaller pictures
    are centered. Rows may differ in length; None leaves a gap. Frames on top, one row per method
    and time to the right give figure 4 of the supplement of Busy-Quiet.

    Args:
        rows: rows of pictures, from top to bottom
        names: text to the left of each row; may have several lines
        titles: text above each column
        margin: pixels between pictures and around the page
        height: height of a line of text, in pixels

    Shape:
        - rows: pictures ``(H, W, 3)`` uint8
        - output: ``(H', W', 3)`` uint8
    """
    shapes = [[_measure_picture(picture) for picture in row] for row in rows]
    columns = max(map(len, shapes), default=0)
    if not columns:
        raise ShapeError("a grid needs at least one picture")
    _check_text_count(names, len(rows), texts_name="names", items_name="rows")
    _check_text_count(titles, columns, texts_name="titles", items_name="columns")
    heights = [max((h for h, _ in row), default=0) for row in shapes]
    widths = [max(row[i][1] if i < len(row) else 0 for row in shapes) for i in range(columns)]
    widths = [
        max(width, _measure_text_width(title, height))
        for width, title in _pair_widths_with_titles(widths, titles)
    ]
    names_width = max((_measure_text_width(name, height) for name in names), default=0)
    tops = _compute_starts(
        heights, margin=margin, first=margin + (round(_LINE_SPACING * height) if any(titles) else 0)
    )
    lefts = _compute_starts(
        widths, margin=margin, first=margin + (names_width + margin if names_width else 0)
    )
    page = np.full((tops[-1], lefts[-1], 3), 255, np.uint8)
    for row, top, row_height in zip(rows, tops, heights, strict=False):
        for picture, left, column_width in zip(row, lefts, widths, strict=False):
            _paste_centered(page, picture, top + row_height / 2, left + column_width / 2)
    for title, left, column_width in zip(titles, lefts, widths, strict=False):
        _write_centered(page, title, margin + height / 2, left + column_width / 2, height)
    for name, top, row_height in zip(names, tops, heights, strict=False):
        _write_centered(page, name, top + row_height / 2, margin + names_width / 2, height)
    return page


def _measure_picture(picture: Picture | None) -> tuple[int, int]:
    if picture is None:
        return 0, 0
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ShapeError(f"a picture must be uint8 (H, W, 3), got {picture.dtype} {picture.shape}")
    return picture.shape[0], picture.shape[1]


def _check_text_count(
    texts: Sequence[str], count: int, *, texts_name: str, items_name: str
) -> None:
    if texts and len(texts) != count:
        raise UsageError(
            f"{texts_name}: {len(texts)} for {count} {items_name}. Give one for each, or none"
        )


def _measure_text_width(text: str, height: int) -> int:
    return max(measure_text(line, height)[1] for line in text.split("\n"))


def _pair_widths_with_titles(widths: Sequence[int], titles: Sequence[str]) -> list[tuple[int, str]]:
    return list(zip(widths, titles or [""] * len(widths), strict=True))


def _compute_starts(sizes: Sequence[int], *, margin: int, first: int) -> list[int]:
    """Return the start of each item, then the total length."""
    # sizes = [10, 20], margin = 5, first = 5 -> [5, 20, 45]
    return [first, *(first + int(s) for s in np.cumsum([size + margin for size in sizes]))]


def _paste_centered(page: Picture, picture: Picture | None, y: float, x: float) -> None:
    """Paste a picture centered at (y, x)."""
    if picture is None:
        return
    top, left = int(y - picture.shape[0] / 2), int(x - picture.shape[1] / 2)
    page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture


def _write_centered(page: Picture, text: str, y: float, x: float, height: int) -> None:
    """Write lines of text centered at (y, x)."""
    lines = text.split("\n")
    # The space below the last line is not part of the block that is centered.
    top = y - _LINE_SPACING * height * len(lines) / 2 + (_LINE_SPACING - 1) * height / 2
    for i, line in enumerate(lines):
        start = int(x - measure_text(line, height)[1] / 2)
        draw_text(page, line, (int(top + i * _LINE_SPACING * height), start), height=height)

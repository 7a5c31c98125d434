"""Write text on pictures."""

import unicodedata
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from mrx.errors import UsageError
from mrx.render.arrays import Picture

TextColor = tuple[int, int, int]
BLACK: TextColor = (0, 0, 0)
WHITE: TextColor = (255, 255, 255)
TEXT_HEIGHT = 14
"""Default height of a line of text in pixels, including descenders."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Draw larger, then average, so that the strokes of Hershey fonts stay even.
_OVERSAMPLING = 4
# OpenCV 5 (which has FontFace) draws with a font that has its own stroke width.
_STROKE_WIDTH = 1 if hasattr(cv2, "FontFace") else _OVERSAMPLING + 1
_ASCII_SIGNS = str.maketrans(
    {"×": "x", "−": "-", "–": "-", "—": "-", "→": "->", "…": "...", "·": "."}  # noqa: RUF001
    | {"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "ß": "ss", "ø": "o", "µ": "u"}  # noqa: RUF001
)


def to_ascii(text: str) -> str:
    """Convert text to the ASCII that OpenCV can draw.

    Accents are dropped, Greek letters are spelled out, signs become their ASCII equivalents, and
    everything else becomes a question mark.

    >>> to_ascii("σ=0.9 — café №1 日本")
    'sigma=0.9 - cafe No1 ??'
    """
    letters = unicodedata.normalize("NFKD", text.translate(_ASCII_SIGNS))
    return "".join(
        _letter_to_ascii(letter) for letter in letters if not unicodedata.combining(letter)
    )


def _letter_to_ascii(letter: str) -> str:
    if " " <= letter <= "~":
        return letter
    kind, _, name = unicodedata.name(letter, "").rpartition(" LETTER ")
    # Unicode spells it LAMDA.
    name = {"LAMDA": "LAMBDA"}.get(name, name)
    return name.lower() if kind.startswith("GREEK") and name.isalpha() else "?"


def measure_text(text: str, height: int = TEXT_HEIGHT) -> tuple[int, int]:
    """Return the height and width of a line of text, in pixels."""
    return _render_text_mask(to_ascii(text), height).shape


def draw_text(
    picture: Picture,
    text: str,
    at: tuple[int, int],
    *,
    height: int = TEXT_HEIGHT,
    color: TextColor = BLACK,
) -> None:
    """Write a line of text into a picture, in place; parts outside the picture are cropped.

    Args:
        picture: picture to write on
        text: one line; converted by `to_ascii`
        at: y and x of the upper left corner of the line
        height: height of the line, in pixels
        color: red, green and blue
    """
    mask = _render_text_mask(to_ascii(text), height)
    y, x = at
    top, left, bottom, right = max(0, y), max(0, x), y + mask.shape[0], x + mask.shape[1]
    rows, columns = slice(top, max(top, bottom)), slice(left, max(left, right))
    height, width = picture[rows, columns].shape[:2]
    share = mask[top - y : top - y + height, left - x : left - x + width, None]
    under = picture[rows, columns].astype(np.float32)
    picture[rows, columns] = np.rint(under + (np.asarray(color, np.float32) - under) * share)


def label(picture: Picture, text: str, *, height: int = TEXT_HEIGHT) -> Picture:
    """Copy a picture and label it: white text, wrapped, on a dark box in the upper left corner.

    Shape:
        - picture: ``(H, W, 3)`` uint8; output: the same, a copy
    """
    written = picture.copy()
    if not text:
        return written
    lines = wrap_text(text, picture.shape[1] - 8, height=height)
    width = max(measure_text(line, height)[1] for line in lines)
    box = written[: height * len(lines) + 4, : width + 8]
    box[:] = box * 0.3
    for number, line in enumerate(lines):
        draw_text(written, line, (2 + number * height, 4), height=height, color=WHITE)
    return written


@lru_cache(256)
def wrap_text(text: str, width: int, *, height: int = TEXT_HEIGHT) -> tuple[str, ...]:
    """Wrap text to lines of at most `width` pixels; only words wider than a line are split.

    >>> wrap_text("tvl1 preset=fast", 80), wrap_text("pa", 80)
    (('tvl1', 'preset=fast'), ('pa',))
    """

    def fits_width(line: str) -> bool:
        return measure_text(line, height)[1] <= width

    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if fits_width(longer):
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and not fits_width(lines[-1] + letter):
                lines.append("")
            lines[-1] += letter
    return tuple(filter(None, lines))


@lru_cache(256)
def _render_text_mask(text: str, height: int) -> NDArray[np.float32]:
    """Return the coverage of each pixel by a line of text, ``(height, width)`` in 0..1.

    The array is cached: do not write to it.
    """
    if height < 6:
        raise UsageError(f"text of {height} pixels: too small to read. Use at least 6")
    (_, ascent), descent = cv2.getTextSize("Hg", _FONT, 1, 1)
    scale = height * _OVERSAMPLING / (ascent + descent + 2)
    (width, _), _ = cv2.getTextSize(text, _FONT, scale, _STROKE_WIDTH)
    # Rounded up, and one more column for the left offset and soft edges
    columns = -(-width // _OVERSAMPLING) + 1 if text else 0
    large = np.zeros((height * _OVERSAMPLING, columns * _OVERSAMPLING), np.uint8)
    if not text:
        return large.astype(np.float32)
    base = round(height * _OVERSAMPLING - scale * (descent + 1))
    cv2.putText(
        large, text, (_OVERSAMPLING // 2, base), _FONT, scale, 255, _STROKE_WIDTH, cv2.LINE_AA
    )
    small = cv2.resize(large, (columns, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(255)


def format_number(value: float, units: str = "") -> str:
    """Format a number with three significant digits and its units.

    >>> format_number(8.3666, "px"), format_number(1271.6), format_number(0.00412), format_number(0)
    ('8.37 px', '1270', '0.00412', '0')
    """
    number = f"{value:.3g}"
    # `g` writes 1271.6 as 1.27e+03; use plain digits below a million.
    if "e" in number and 1e-4 <= abs(value) < 1e6:
        number = f"{float(number):.0f}"
    return f"{number} {units}".rstrip()

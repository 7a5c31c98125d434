"""Folders of numbered images, which are videos."""

# ruff: noqa: PTH116, PTH118, PTH119
# Paths are str for the reasons that mrx.sources.scan has.

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice, pairwise

from mrx.sources.keys import natural_sort_key

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff", "ppm", "pgm")

MAX_LISTED_GAPS = 100  # further missing numbers are only counted

NUMBERED_IMAGE = re.compile(rf"(.*?)([0-9]+)\.({'|'.join(IMAGE_EXTENSIONS)})", re.I | re.S)

# In order of preference. Without any of them, the prefix with the most files is chosen.
_USUAL_PREFIXES = ("", "img_", "image_", "frame", "frame_")


@dataclass(frozen=True)
class NumberedImages:
    """The frames of a folder: images with one prefix, one for each number, in numeric order.

    Attributes:
        paths: Paths of the images, absolute if the folder's path is.
        missing_numbers: Numbers absent between the first and the last image, the first 100 of them.
        num_missing: Count of all absent numbers.
    """

    paths: list[str]
    missing_numbers: list[int]
    num_missing: int


def list_numbered_images(folder: str) -> NumberedImages:
    """List the frames of a folder: images with one prefix, but never ``flow_*``."""
    with os.scandir(folder) as entries:
        names = [
            entry.name for entry in entries if entry.name[0] != "." and not is_folder_entry(entry)
        ]
    by_number = _choose_frames(filter(None, map(NUMBERED_IMAGE.fullmatch, names)))
    numbers = sorted(by_number)
    # Lazy: one stray number such as 99999999999999 leaves more gaps than memory can hold.
    gaps = chain.from_iterable(range(low + 1, high) for low, high in pairwise(numbers))
    return NumberedImages(
        paths=[os.path.join(folder, by_number[number]) for number in numbers],
        missing_numbers=list(islice(gaps, MAX_LISTED_GAPS)),
        num_missing=numbers[-1] - numbers[0] + 1 - len(numbers) if numbers else 0,
    )


def compute_fingerprint(folder: str) -> str | None:
    """Hash the names, sizes and times of a folder's frames; None if it has no frames.

    Replacing an image changes neither the folder's own time nor the number of images.
    """
    paths = sorted(list_numbered_images(folder).paths)
    digest = hashlib.sha256()
    for path in paths:
        name = os.fsencode(os.path.basename(path))
        try:
            facts = os.stat(path)
        except OSError:
            # A broken symbolic link. The video counts it as an unreadable image.
            size, mtime_ns = -1, -1
        else:
            size, mtime_ns = facts.st_size, facts.st_mtime_ns
        # No file name contains a slash, so distinct lists give distinct texts.
        digest.update(b"%s/%d/%d/" % (name, size, mtime_ns))
    return digest.hexdigest()[:16] if paths else None


def is_folder_entry(entry: os.DirEntry[str]) -> bool:
    """Return True for a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:
        # A link that loops is neither a folder nor a file.
        return False


def is_flow_image(image: re.Match[str]) -> bool:
    """Return True for an image of optical flow; some data sets keep them beside the frames."""
    return image[1].lower().startswith("flow_")


def _choose_frames(images: Iterable[re.Match[str]]) -> dict[int, str]:
    by_prefix = defaultdict(list)
    for image in images:
        if not is_flow_image(image):
            by_prefix[image[1]].append(image)
    if not by_prefix:
        return {}
    ranks = {prefix: rank for rank, prefix in enumerate(_USUAL_PREFIXES)}
    best_prefix = min(
        by_prefix,
        key=lambda p: (ranks.get(p.lower(), len(ranks)), -len(by_prefix[p]), natural_sort_key(p)),
    )
    extension_counts = Counter(image[3].lower() for image in by_prefix[best_prefix])
    # One image per number, of the most frequent extension: 1.jpg 2.jpg 2.png -> 1.jpg 2.jpg
    chosen: dict[int, str] = {}
    for image in sorted(
        by_prefix[best_prefix],
        key=lambda m: (-extension_counts[m[3].lower()], natural_sort_key(m[0])),
    ):
        chosen.setdefault(int(image[2]), image[0])
    return chosen

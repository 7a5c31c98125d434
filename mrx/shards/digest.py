"""Digests over everything that a reader gets of a video, so that no change goes unnoticed."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNDIGESTED = {"digest", "complete"}  # written after the digest


@dataclass(frozen=True)
class DigestedMaps:
    """The part of one method in the digest of a video.

    Attributes:
        shape: of all maps, (N, C, H, W)
        items: the items, whose checksums stand for the values of the maps
    """

    dtype: str
    shape: tuple[int, ...]
    attributes: Mapping[str, Any]
    items: NDArray[Any]


def to_plain_value(value: Any) -> Any:
    """Convert an attribute, as written or as read back, to the same value of plain Python types.

    >>> to_plain_value(np.float64(0.5)), to_plain_value(np.array([1, 2])), to_plain_value(b"a")
    (0.5, [1, 2], 'a')
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, list | tuple):
        return [to_plain_value(item) for item in value]
    return value


def digest_video(attributes: Mapping[str, Any], methods: Mapping[str, DigestedMaps]) -> str:
    """Return the digest of a video, over its attributes, shapes, items and checksums."""
    content = {
        "attributes": _to_plain_attributes(attributes),
        "methods": {
            name: [
                maps.dtype,
                [int(n) for n in maps.shape],
                _to_plain_attributes(maps.attributes),
                hashlib.sha256(np.ascontiguousarray(maps.items).tobytes()).hexdigest(),
            ]
            for name, maps in methods.items()
        },
    }
    return _hash_json(content)


def digest_root(attributes: Mapping[str, Any], videos: Iterable[tuple[str, str]]) -> str:
    """Return the digest of a shard, over its own attributes and the digests of its videos."""
    return _hash_json([_to_plain_attributes(attributes), sorted(map(list, videos))])


def _to_plain_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {k: to_plain_value(v) for k, v in attributes.items() if k not in UNDIGESTED}


def _hash_json(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()

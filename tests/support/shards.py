"""Write shards of random maps, without a video."""

import numpy as np
import torch

from mrx.job import Job, Storage
from mrx.records import Motion
from mrx.shards.chunks import pack_motion
from mrx.shards.encoding import Encoding
from mrx.shards.writer import ShardWriter

SETTINGS = {"methods": {"mbpm": {"sigma": 1.1}}, "dtype": "float16"}
ATTRIBUTES = {"avg_fps": 25.0, "duration": 1.0, "source_size": 10, "source_mtime": 2.5}
METHOD = {"units": "a.u.", "channels": ["r"], "params_json": "{}"}


def make_motion(items=3, *, seed=0, channels=1, height=4, width=5):
    """Make random maps of windows of three frames."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(items, channels, height, width)).astype(np.float32)
    index = np.arange(items)[:, None] * 3 + [0, 2]
    return Motion(torch.from_numpy(values), index, index / 25)


def add_video(writer, key, **options):
    """Write a video of random maps and commit it."""
    write_video(writer.begin_entry(key), **options)


def write_video(entry, *, seed=0, items=3, **attributes):
    """Write random maps to an entry and commit it."""
    maps = make_motion(items, seed=seed)
    encoding = Encoding.from_storage(Storage(dtype="float16"), units="a.u.", bound=1.0)
    entry.create_dataset("mbpm", shape=maps.data.shape[1:], encoding=encoding, filters={})
    entry.append_maps("mbpm", pack_motion(maps, encoding, {}))
    entry.commit_video({**ATTRIBUTES, **attributes}, {"mbpm": METHOD})


def make_shard(folder, keys, *, settings=SETTINGS, share=None, seed=0, run=1):
    """Write a shard with these videos, and return its path."""
    writer = ShardWriter.for_job(Job(output=str(folder), share=share), settings, run=run)
    for i, key in enumerate(keys):
        add_video(writer, key, seed=seed + i)
    return writer.seal_shard()

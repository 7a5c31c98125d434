"""Read a shard with h5py alone: python 02_read_shard.py SHARD.h5."""

import json
import sys

import h5py


def describe(path):
    with h5py.File(path) as shard:
        print(f"format {shard.attrs['mrx_format']}, written by mrx {shard.attrs['mrx_version']}")
        print("settings:", json.loads(shard.attrs["settings_json"])["methods"])
        for video in shard["videos"].values():
            size = f"{video.attrs['width']}x{video.attrs['height']}"
            print(f"{video.attrs['key']}: {video.attrs['n_frames']} frames of {size}")
            for name, maps in video.items():
                if not name.endswith(".items"):
                    describe_maps(name, maps, video[f"{name}.items"])


def describe_maps(name, maps, items):
    """Print facts about maps (N, C, H, W); value = raw * scale + offset."""
    first = maps[0].astype("float32") * maps.attrs["scale"] + maps.attrs["offset"]
    print(f"  {name} {maps.shape} {maps.dtype}, in {maps.attrs['units']}")
    when = f"frames {items['first'][0]} to {items['last'][0]}, from {items['start'][0]:.2f} s"
    print(f"    first map: {when}")
    for channel, values in zip(maps.attrs["channels"], first, strict=True):
        print(f"    {channel}: {values.min():.1f} to {values.max():.1f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    describe(sys.argv[1])

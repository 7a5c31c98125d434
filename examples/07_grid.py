"""Draw all methods at four moments of a clip: python 07_grid.py [PICTURE]."""

import sys
import tempfile
from pathlib import Path

import av
import cv2

import mrx
from mrx import methods, render
from mrx.job import Decoding, Windowing

FOLDER = Path(__file__).parent
CLIP = FOLDER / "media" / "approach.mp4"
PICTURE = FOLDER / "methods.jpg"
MOMENTS = Windowing(segments=4, dilation=1)
SHORT_SIDE = 144


def extract(folder):
    """Extract the windows at the centers of equal parts of the clip with every method."""
    decoding = Decoding(short_side=SHORT_SIDE)
    mrx.extract(
        CLIP, folder, method=methods.list_method_names(), decoding=decoding, windowing=MOMENTS
    )


def frames(numbers, width, height):
    """Return the frames of these numbers in the size of the maps."""
    with av.open(str(CLIP)) as container:
        pictures = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    size = (width, height)
    return [cv2.resize(pictures[n], size, interpolation=cv2.INTER_AREA) for n in numbers]


def rows(name, maps, under):
    """Return a row per kind of map: name, pictures on one scale, legend."""
    channels, units = list(maps.attrs["channels"]), maps.attrs["units"]
    scale = render.new_scale(channels, units=units)
    scale.add(render.measure(maps[:], channels, units=units))
    parts = render.parts(channels, units=units)
    kinds = [render.kind_of(channels[part], units) for part in parts]
    for kind in dict.fromkeys(kinds):
        part, count = parts[kinds.index(kind)], kinds.count(kind)
        draw = {"channels": channels[part], "units": units, "scale": scale}
        pictures = [render.picture(m[part], frame=under, **draw) for m in maps[:]]
        titled = f"{name}\nconfidence" if kind == "confidence" else name
        several = f"\n(first of {count})" if count > 1 else ""
        yield titled + several, [*pictures, render.legend(**draw)]


def main(target):
    with tempfile.TemporaryDirectory() as folder:
        extract(folder)
        with mrx.open(folder) as shards:
            video = shards[CLIP.name]
            height, width = video["tvl1"].shape[-2:]
            items = video["tvl1"].items
            shown = frames(items["first"], width, height)
            found = [
                r for name in methods.list_method_names() for r in rows(name, video[name], shown[0])
            ]
    titles = [f"{time:.2f} s" for time in items["start"]] + [""]
    names, drawn = zip(("frame", shown), *found, strict=True)
    page = render.grid(drawn, names=names, titles=titles)
    cv2.imwrite(str(target), page[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else PICTURE)

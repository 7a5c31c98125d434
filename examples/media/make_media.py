"""Make the clips of this folder: textured things that move in a known way over a panning ground.

    python examples/media/make_media.py [FOLDER]

Everything is drawn from seeded noise: equal versions of av, cv2 and numpy make equal clips.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np

WIDTH, HEIGHT, FPS, FRAMES = 320, 240, 25, 60
PAN = 0.5  # pixels a frame, to the left

Scene = Callable[[np.ndarray, float], np.ndarray]  # paints over the ground, at time 0..1


def texture(height: int, width: int, seed: int, colours: list[str]) -> np.ndarray:
    """Smooth noise of several scales, coloured along a ramp: (H, W, 3), float RGB in 0..255."""
    rng = np.random.default_rng(seed)
    noise = np.zeros((height, width), np.float32)
    for cell in (64, 32, 16, 8, 4):
        small = rng.standard_normal((height // cell + 3, width // cell + 3)).astype(np.float32)
        large = cv2.resize(small, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
        noise += large[cell : cell + height, cell : cell + width] * cell**0.6
    low, high = np.percentile(noise, (2, 98))
    place = np.clip((noise - low) / (high - low), 0, 1) * (len(colours) - 1)
    ramps = zip(*map(bytes.fromhex, colours), strict=True)
    channels = [np.interp(place, range(len(colours)), ramp) for ramp in ramps]
    return np.stack(channels, axis=2).astype(np.float32)


def paste(under: np.ndarray, thing: np.ndarray, mask: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Lay a thing over a frame, moved by a 2x3 matrix, with soft edges and a soft shadow."""
    shape = cv2.warpAffine(mask, move, (WIDTH, HEIGHT))
    top = cv2.warpAffine(thing, move, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
    shadow = cv2.GaussianBlur(np.roll(shape, (5, 4), (0, 1)), (0, 0), 5)
    under = under * (1 - 0.45 * shadow[..., None])
    return under + (top - under) * shape[..., None]


def matrix(centre: tuple, to: tuple, angle: float, zoom: float) -> np.ndarray:
    """Turn by ``angle`` degrees and zoom about ``centre``, then carry it to ``to``."""
    move = cv2.getRotationMatrix2D(centre, angle, zoom)
    move[:, 2] += np.subtract(to, centre)
    return move


def blob(size: int, outline: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A mask of (size, size): the radius, of 1, as a function of the angle."""
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size * 2 - 1
    edge = outline(np.arctan2(y, x)) * 0.9
    return np.clip((edge - np.hypot(x, y)) * size / 4 + 0.5, 0, 1)


def translate() -> Scene:
    """A disc and a star that cross."""
    disc = texture(96, 96, 1, ["7a1f2b", "d9472b", "f6b042", "fff3c4"])
    star = texture(80, 80, 2, ["123a5a", "2d7fb8", "8fd3e8", "f4fbff"])
    circle, points = blob(96, np.ones_like), blob(80, lambda a: 0.8 + 0.2 * np.cos(5 * a))

    def paint(ground: np.ndarray, t: float) -> np.ndarray:
        frame = paste(ground, star, points, matrix((40, 40), (255 - 180 * t, 170 - 15 * t), 0, 1))
        return paste(frame, disc, circle, matrix((48, 48), (60 + 200 * t, 85 + 10 * t), 0, 1))

    return paint


def rotate() -> Scene:
    """A large flower that turns, and a small one that turns against it."""
    large = texture(150, 150, 3, ["2b1a4f", "7d3fa8", "e277b5", "ffe3ef"])
    small = texture(76, 76, 4, ["5a3205", "c9820e", "f7d354", "fffbe0"])
    six = blob(150, lambda a: 0.82 + 0.18 * np.cos(6 * a))
    four = blob(76, lambda a: 0.8 + 0.2 * np.cos(4 * a))

    def paint(ground: np.ndarray, t: float) -> np.ndarray:
        frame = paste(ground, large, six, matrix((75, 75), (125, 115), -170 * t, 1))
        return paste(frame, small, four, matrix((38, 38), (252, 165), 260 * t, 1))

    return paint


def approach() -> Scene:
    """A ball that comes nearer, and one that goes away."""
    near = texture(200, 200, 5, ["0f3d2e", "1f8a5b", "9bd770", "fbffdc"])
    far = texture(120, 120, 6, ["4a1230", "b8336a", "f78fa7", "ffeef2"])
    near_mask, far_mask = blob(200, np.ones_like), blob(120, np.ones_like)

    def paint(ground: np.ndarray, t: float) -> np.ndarray:
        zoom = math.exp(1.1 * t)
        frame = paste(ground, far, far_mask, matrix((60, 60), (245, 90), 0, 0.9 / zoom))
        return paste(frame, near, near_mask, matrix((100, 100), (120, 130), 0, 0.3 * zoom))

    return paint


def deform() -> Scene:
    """A jelly that swings and breathes."""
    skin = texture(200, 200, 7, ["0b2a5b", "1f6fd1", "56c7e0", "effcff"])
    mask = blob(200, lambda a: 0.86 + 0.06 * np.cos(3 * a + 0.5))
    y, x = np.mgrid[:200, :200].astype(np.float32)

    def paint(ground: np.ndarray, t: float) -> np.ndarray:
        phase = 2 * math.tau * t
        bent = (x + 9 * np.sin(y / 28 + phase), y + 7 * np.sin(x / 34 - phase), cv2.INTER_LINEAR)
        move = matrix((100, 100), (160, 120), 0, 0.85 + 0.06 * math.sin(phase))
        return paste(ground, cv2.remap(skin, *bent), cv2.remap(mask, *bent), move)

    return paint


GROUNDS = {
    translate: ["24323d", "4d6a6d", "8aa399", "c9d6c3"],
    rotate: ["22381f", "4f7344", "91a877", "d5dfbb"],
    approach: ["33284a", "5d5482", "9089b3", "cfcbe0"],
    deform: ["4a3426", "8a6848", "bf9f78", "ead9bd"],
}


def film(path: Path, scene: Scene, colours: list[str], seed: int) -> None:
    """Paint a scene over its panning ground, and code it as H.264."""
    wide = texture(HEIGHT, WIDTH + math.ceil(PAN * FRAMES) + 1, seed, colours)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        # With mbtree two runs on one machine differ, even in one thread
        stream.options = {"crf": "24", "preset": "veryslow", "x264-params": "mbtree=0"}
        for i in range(FRAMES):
            ground = cv2.warpAffine(wide, matrix((0, 0), (-PAN * i, 0), 0, 1), (WIDTH, HEIGHT))
            picture = np.clip(scene(ground, i / (FRAMES - 1)), 0, 255).round().astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    """Write the four clips into this folder, or into the one that is named."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for seed, (scene, colours) in enumerate(GROUNDS.items(), start=20):
        film(folder / f"{scene.__name__}.mp4", scene(), colours, seed)


if __name__ == "__main__":
    main()

import numpy as np
import torch
from support import flows

from mrx.methods.tvl1 import TVL1
from mrx.ops.matched_start import choose_start, match_frames


def to_image(picture):
    return torch.from_numpy(picture)[None, None].float()


def make_blocks(height, width, *, seed=0):
    """Make a picture (height, width) of blocks of 8 pixels, of random gray values."""
    rows, columns = -(-height // 8), -(-width // 8)
    values = np.random.default_rng(seed).integers(40, 216, (rows, columns), np.uint8)
    return values.repeat(8, 0).repeat(8, 1)[:height, :width]


def make_object_pair(dx):
    """Make a picture, and the same with a square of another picture moved in front of it."""
    front, behind = make_blocks(96, 160, seed=1), make_blocks(96, 160, seed=2)
    frames = []
    for shift in (0, dx):
        frame = behind.copy()
        frame[24:72, 30 + shift : 78 + shift] = front[24:72, 30:78]
        frames.append(frame)
    return frames


def test_large_shifts_are_matched():
    picture = make_blocks(96, 168)
    before, after = picture[:, 40:], picture[:, 16:144]  # moves 24 to the right
    for matched in match_frames(to_image(before), to_image(after)):
        assert matched.shape == (1, 2, 12, 16)
        assert (matched[0, 0, 2:-2, 2:-5] - 24).abs().median() < 1
        assert matched[0, 1, 2:-2, 2:-5].abs().median() < 1


def test_pairs_of_a_batch_are_matched_on_their_own():
    pairs = [make_object_pair(dx) for dx in (4, 30)]
    before, after = (torch.cat([to_image(pair[i]) for pair in pairs]) for i in (0, 1))
    together = match_frames(before, after)
    for i in range(2):
        alone = match_frames(before[i : i + 1], after[i : i + 1])
        for found, expected in zip(together, alone, strict=True):
            assert torch.equal(found[i], expected[0])


def test_large_frames_are_matched_by_larger_cells():
    picture = make_blocks(800, 900).repeat(2, 0).repeat(2, 1)[:800]
    before, after = picture[:, 100:900], picture[:, 20:820]  # moves 80 to the right
    for matched in match_frames(to_image(before), to_image(after)):
        assert matched.shape == (1, 2, 100, 100)
        assert (matched[0, 0, 10:-10, 10:-20] - 80).abs().median() < 2


def test_only_better_displacements_are_chosen():
    before, after = (to_image(flows.make_texture(48, 64, dx=dx)) for dx in (0, 2))
    truth, still = torch.zeros(1, 2, 48, 64), torch.zeros(1, 2, 48, 64)
    truth[:, 0] = 2
    matched = torch.zeros(1, 2, 6, 8)
    matched[:, 0] = 2
    chosen = choose_start(before, after, still, matched, scale=1.0)
    assert torch.equal(chosen[..., 8:-8], truth[..., 8:-8])
    kept = choose_start(before, after, truth, torch.zeros(1, 2, 6, 8), scale=1.0)
    assert torch.equal(kept[..., 8:-8], truth[..., 8:-8])


def test_an_object_that_outruns_the_pyramid_is_found():
    frames = make_object_pair(24)
    errors = {}
    for preset in ("matched", "accurate"):
        with torch.inference_mode():
            found = TVL1(preset).extract(flows.stack_window(*frames))
        inside = found[0, :, 32:64, 38:70] - torch.tensor([24.0, 0.0]).view(2, 1, 1)
        errors[preset] = inside.norm(dim=0).mean()
    assert errors["matched"] < 1
    assert errors["accurate"] > 10

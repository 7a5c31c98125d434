import pytest
import torch
from support import flows

from mrx.ops.light import match_frame_light, match_local_light

STILL = torch.zeros(1, 2, 48, 64)


def picture(**motion):
    return torch.from_numpy(flows.make_texture(48, 64, **motion))[None, None].float()


@pytest.mark.parametrize(("gain", "offset"), [(1.15, 10), (0.87, -5), (1, 10), (1.04, 0)])
def test_a_change_of_the_whole_frame_is_undone(gain, offset):
    image = picture()
    later = (gain * image + offset).clamp(0, 255)
    assert (match_frame_light(image, later) - later).abs().max() < 0.05


def test_motion_does_not_pass_for_light():
    image = picture()
    assert torch.equal(match_frame_light(image, picture(dx=5, dy=3)), image)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.33])
def test_what_enters_the_frame_does_not_pass_for_light(share):
    image, later = picture(), picture(dx=2)
    later[..., : round(64 * share)] = 235
    assert torch.equal(match_frame_light(image, later), image)


def test_equal_and_flat_frames_are_handled_exactly():
    image, flat = picture(), torch.full((1, 1, 20, 20), 7.0)
    assert torch.equal(match_frame_light(image, image.clone()), image)
    assert (match_frame_light(flat, flat + 50) - 57).abs().max() < 1e-3
    black, white = torch.zeros(1, 1, 20, 20), torch.full((1, 1, 20, 20), 255.0)
    assert (match_frame_light(black, white) - 255).abs().max() < 1e-3


def test_frames_of_a_batch_are_matched_on_their_own():
    image = picture()
    laters = torch.cat([image, 1.1 * image + 4, picture(seed=1)])
    together = match_frame_light(image.expand(3, -1, -1, -1), laters)
    for found, later in zip(together, laters, strict=True):
        assert torch.equal(found, match_frame_light(image, later[None])[0])


def test_local_light_follows_a_ramp():
    image = picture()
    ramp = torch.linspace(0, 30, 64).expand(48, 64)
    found = match_local_light(image, image + ramp, STILL) - image
    assert (found - ramp)[..., 8:-8].abs().max() < 1
    assert torch.equal(match_local_light(image, image.clone(), STILL), image)


@pytest.mark.parametrize("size", [(5, 7), (16, 33), (3, 40)])
def test_local_light_of_any_size_is_finite(size):
    before, after = torch.rand(2, 1, 1, *size) * 255
    partly = match_local_light(before, after, torch.full((1, 2, *size), 1.6))
    assert partly.isfinite().all()
    assert not torch.equal(partly, before)
    outside = torch.full((1, 2, *size), 100.0)
    found = match_local_light(before, after, outside)
    assert found.shape == before.shape
    # Pixels that have left the frame tell nothing about its light.
    assert torch.equal(found, before)


def test_local_light_has_right_gradients():
    before, after = torch.rand(2, 1, 1, 6, 7, dtype=torch.float64) * 50
    flow = torch.rand(1, 2, 6, 7, dtype=torch.float64) * 0.8 + 0.1
    inputs = [values.requires_grad_() for values in (before, after, flow)]
    assert torch.autograd.gradcheck(match_local_light, inputs)

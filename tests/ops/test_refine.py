"""Refinement of coarse displacements, right and wrong, to those of the picture."""

import pytest
import torch
from support import flows

from mrx.ops.refine import (
    MatchedMotion,
    affine_motion,
    find_common_shift,
    measure_agreement,
    refine_motion,
)

HEIGHT, WIDTH = 96, 120


def picture(dx=0.0, dy=0.0):
    return torch.from_numpy(flows.make_texture(HEIGHT, WIDTH, dx=dx, dy=dy)).float()[None, None]


def uniform_matches(dx, dy):
    flow = torch.tensor([dx, dy]).view(1, 2, 1, 1).expand(1, 2, HEIGHT // 8, WIDTH // 8)
    return MatchedMotion(flow.clone(), torch.ones(1, 1, HEIGHT // 8, WIDTH // 8))


def inner(maps, border=6):
    return maps[..., border:-border, border:-border]


def test_half_a_cell_off_becomes_a_small_part_of_a_pixel_off():
    maps = refine_motion(
        picture(), picture(5.3, -2.6), uniform_matches(8.0, 0.0), uniform_matches(-8.0, 0.0)
    )
    error = (maps.displacement - torch.tensor([5.3, -2.6]).view(2, 1, 1)).norm(dim=1)
    assert inner(error).mean() < 0.1
    assert maps.displacement.shape == (1, 2, HEIGHT // 4, WIDTH // 4)


def test_displacements_of_one_direction_only_are_replaced():
    forward = uniform_matches(8.0, 8.0)
    forward.displacement[..., 4:6, 4:6] = -40.0
    maps = refine_motion(picture(), picture(8, 8), forward, uniform_matches(-8.0, -8.0))
    assert (inner(maps.displacement) - 8).abs().max() < 0.2


def test_a_wrong_start_loses_to_no_motion():
    maps = refine_motion(
        picture(), picture(1, 0), uniform_matches(40.0, -32.0), uniform_matches(-40.0, 32.0)
    )
    assert inner(maps.displacement).square().sum(1).sqrt().mean() < 1.2


def test_a_wrong_start_loses_to_the_common_shift():
    maps = refine_motion(
        picture(), picture(-21, 26), uniform_matches(40.0, -32.0), uniform_matches(-40.0, 32.0)
    )
    inside = maps.displacement[..., 2:-9, 8:-2]
    assert (inside - torch.tensor([-21.0, 26.0]).view(2, 1, 1)).abs().mean() < 0.3


@pytest.mark.parametrize("shift", [(0, 0), (7, -4), (-14, 14), (3, 9)])
def test_the_common_shift_is_found_in_images_of_noise(shift):
    dx, dy = shift
    big = torch.randn(1, 1, 80, 90, generator=torch.Generator().manual_seed(0))
    first, second = big[..., 20:60, 20:70], big[..., 20 - dy : 60 - dy, 20 - dx : 70 - dx]
    both = torch.cat([first, second]), torch.cat([second, first])
    assert find_common_shift(*both, max_shift=14).tolist() == [[dx, dy], [-dx, -dy]]


@pytest.mark.parametrize("size", [(2, 2), (2, 9), (1, 3)])
def test_a_shift_of_small_images_is_at_most_half_of_their_side(size):
    images = torch.randn(3, 1, *size)
    shift = find_common_shift(images, images, max_shift=14).abs()
    assert (shift <= torch.tensor(size[::-1]) // 2).all()


def test_confidence_is_high_on_texture_and_0_on_flat_areas():
    before, after = picture(), picture(4, 0)
    before[..., 64:], after[..., 64:] = 128, 128
    confidence = refine_motion(
        before, after, uniform_matches(4.0, 0.0), uniform_matches(-4.0, 0.0)
    ).confidence
    assert confidence.min() >= 0
    assert confidence.max() <= 1
    assert confidence[..., 4:-4, 4:12].mean() > 0.5
    assert confidence[..., 20:].max() < 0.05


def test_confidence_is_low_where_the_later_frame_differs():
    after = picture(4, 0)
    after[..., 64:] = picture(0, 0).flip(2)[..., 64:]
    confidence = refine_motion(
        picture(), after, uniform_matches(4.0, 0.0), uniform_matches(-4.0, 0.0)
    ).confidence
    assert confidence[..., 20:].mean() < 0.3 * confidence[..., 4:12].mean()


def test_frames_of_one_cell_are_refined():
    image = picture()[..., :8, :8]
    match = MatchedMotion(torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1, 1))
    assert refine_motion(image, image, match, match).displacement.abs().max() < 1e-5


@pytest.mark.parametrize(("height", "width"), [(15, 33), (16, 17), (41, 9)])
def test_every_whole_cell_of_4_pixels_gets_a_displacement(height, width):
    image = picture()[..., :height, :width]
    cells = MatchedMotion(
        torch.zeros(1, 2, height // 8, width // 8), torch.ones(1, 1, height // 8, width // 8)
    )
    maps = refine_motion(image, image, cells, cells)
    assert maps.displacement.shape == (1, 2, height // 4, width // 4)
    assert maps.confidence.shape == (1, 1, height // 4, width // 4)
    assert maps.displacement.abs().max() < 1e-5


def test_gradients_pass_through_the_refinement():
    before = picture().double().requires_grad_()
    still = MatchedMotion(*(maps.double() for maps in uniform_matches(0.0, 0.0)))
    maps = refine_motion(before, picture(3, 1).double(), still, still)
    maps.displacement.sum().backward()
    assert before.grad.isfinite().all()
    assert before.grad.abs().max() > 0


def test_directions_agree_where_one_undoes_the_other():
    forward, backward = (
        uniform_matches(8.0, 0.0).displacement,
        uniform_matches(-8.0, 0.0).displacement,
    )
    share = measure_agreement(forward, backward, cell=8, tolerance=1.0)
    assert (share[..., :-1] == 1).all()
    assert (share[..., -1] == 0).all()  # the target is outside the frame
    assert torch.allclose(
        measure_agreement(forward, backward + 1.0, cell=8, tolerance=2**0.5)[..., :-1],
        0.5 * share[..., :-1],
    )


def test_an_affine_motion_is_recovered_at_cells_without_weight():
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(15.0), indexing="ij")
    true = torch.stack([3 + 0.1 * x - 0.2 * y, 0.05 * y - 1])[None]
    weight = torch.ones(1, 1, 12, 15)
    weight[..., 4:7, 5:9] = 1e-9
    flow = torch.where(weight < 1, 50.0, true)
    assert (affine_motion(flow, weight, 4.0) - true)[..., 3:-3, 3:-3].abs().max() < 0.3

import pytest
import torch
from support.flows import load_golden_arrays

from mrx.backbones.mobilenet import MobileNetV2
from mrx.backbones.resnet import ResNet
from mrx.backbones.segments import average_logits, flatten_clips
from mrx.backbones.shift import TemporalShift, temporal_shift
from mrx.errors import ShapeError
from mrx.models.proposals import CorrespondenceProposal


@pytest.mark.parametrize(
    ("mode", "expected"), [("zero", "zero_ms"), ("zero", "mit"), ("circulant", "circulant_ms")]
)
def test_it_shifts_as_the_official_codes_do(mode, expected):
    file = load_golden_arrays("matching_tsm_shift")
    maps = torch.from_numpy(file["x"])
    shifted = temporal_shift(maps, int(file["T"]), mode)
    assert torch.equal(shifted, torch.from_numpy(file[expected]))


def test_channels_that_eight_does_not_divide_keep_their_rest():
    maps = torch.rand(6, 20, 2, 2)
    shifted = temporal_shift(maps, 3)
    assert torch.equal(shifted[:, 4:], maps[:, 4:])
    assert torch.equal(shifted[:2, :2], maps[1:3, :2])
    assert torch.equal(shifted[4:, 2:4], maps[3:5, 2:4])


def test_clips_of_a_batch_do_not_mix():
    maps = torch.rand(8, 16, 2, 2)
    alone = torch.cat([temporal_shift(clip, 4, "circulant") for clip in maps.split(4)])
    assert torch.equal(temporal_shift(maps, 4, "circulant"), alone)


def test_the_shift_is_differentiable_and_leaves_its_input():
    maps = torch.rand(4, 8, 1, 1, dtype=torch.float64, requires_grad=True)
    before = maps.detach().clone()
    assert torch.autograd.gradcheck(lambda x: temporal_shift(x, 2), maps)
    assert torch.equal(maps, before)


def test_the_module_has_no_state_and_shows_its_options():
    module = TemporalShift(4, "circulant")
    assert module.state_dict() == {}
    assert repr(module) == "TemporalShift(segments=4, mode='circulant')"
    with pytest.raises(ValueError, match="mode=other: choose from zero, circulant"):
        TemporalShift(4, "other")


def test_clips_become_frames_and_their_logits_a_mean():
    clip = torch.rand(2, 3, 1, 4, 4)
    assert torch.equal(flatten_clips(clip, 3), clip.view(6, 1, 4, 4))
    assert torch.equal(flatten_clips(clip.view(6, 1, 4, 4), 3), clip.view(6, 1, 4, 4))
    logits = torch.tensor([[1.0], [2.0], [6.0], [0.0], [0.0], [3.0]])
    assert torch.equal(average_logits(logits, 3), torch.tensor([[3.0], [1.0]]))


@pytest.mark.parametrize("segments", [-1, 0])
def test_clips_of_no_frames_are_refused(segments):
    message = f"segments={segments}: must be at least"
    for kind in (ResNet, MobileNetV2):
        with pytest.raises(ShapeError, match=message):
            kind(classes=5, segments=segments)
    for refuse in (TemporalShift, lambda n: CorrespondenceProposal(8, n)):
        with pytest.raises(ShapeError, match=message):
            refuse(segments)
    for function in (temporal_shift, flatten_clips, average_logits):
        with pytest.raises(ShapeError, match=message):
            function(torch.zeros(4, 8, 2, 2), segments)


@pytest.mark.parametrize("shape", [(2, 4, 1, 8, 8), (7, 1, 8, 8), (3, 8, 8), (3, 1, 0, 8)])
def test_other_numbers_of_frames_are_refused(shape):
    with pytest.raises(ShapeError, match=r"clips \(B, 3, C, H, W\) or frames"):
        flatten_clips(torch.zeros(shape), 3)
    with pytest.raises(ShapeError, match=r"expected frames \(B \* 3, ...\), got \(4, 8, 2, 2\)"):
        temporal_shift(torch.zeros(4, 8, 2, 2), 3)

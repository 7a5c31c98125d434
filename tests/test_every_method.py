"""Tests that hold for every method of the table; those of a single method have their own files."""

import numpy as np
import pytest
import torch
from support import flows

from mrx import kernels, methods
from mrx.errors import ShapeError, UsageError
from mrx.methods.spec import Representation, read_value

HEIGHT, WIDTH = 24, 31
STATE = {
    "mbpm": {"conv_s.weight": (3, 1, 9, 9), "conv_t.weight": (3, 1, 3)},
    "dynamic-image": {},
    "pa": {"shallow_conv.weight": (8, 3, 7, 7), "shallow_conv.bias": (8,)},
    "tvl1": {},
    "ms": {},
    "tvnet": {"divergence": (1, 1, 50, 2, 2, 2), "gradient": (1, 1, 50, 2, 2, 2)},
}
SMALL = {
    "mbpm": {"size": 3, "sigma": 0.9},
    "dynamic-image": {},
    "pa": {"n_length": 3},
    "tvl1": {"warps": 1, "inner": 2, "texture_rounds": 2},
    "tvnet": {"iterations": 3, "floor_grey": False},
    "ms": {"preset": "paper", "patch": 3},
}
STILL = {"mbpm": 0.0, "dynamic-image": 1e-3, "pa": 2.9e-6, "tvl1": 0.0, "tvnet": 1e-6, "ms": 1e-4}
"""The most that a still video gives; of confidence, more is right."""
CLOSE = {"tvl1": 1e-3, "tvnet": 3e-5}
"""The largest difference of two ways, as a share of the largest value, if it is not 1e-6: flow by
iterations makes much of what rounding makes little."""


@pytest.fixture(params=[name for name in methods.list_method_names() if name in STATE])
def name(request):
    return request.param


@pytest.fixture
def module(name):
    return methods.find_method(name).build_module({})


@pytest.fixture
def close(name):
    return CLOSE.get(name, 1e-6)


def random_frames(module, batch=2, height=HEIGHT, width=WIDTH, frames=None):
    """Noise; for methods that follow what moves, something that does."""
    colors, frames = colors_of(module), frames or module.length
    if module.units != "px":
        shape = (batch, frames, height, width, colors)
        return torch.randint(0, 256, shape, dtype=torch.uint8).permute(0, 1, 4, 2, 3)
    clips = [
        [flows.make_texture(height, width, dx=0.7 * t, dy=-0.4 * t, seed=b) for t in range(frames)]
        for b in range(batch)
    ]
    return torch.from_numpy(np.array(clips))[:, :, None].expand(-1, -1, colors, -1, -1).clone()


def colors_of(module):
    return 3 if module.color == "rgb" else 1


def assert_close(found, expected, share):
    assert (found - expected).abs().max() <= share * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maps_have_the_named_channels_and_the_dtype_of_the_clip(module, dtype):
    clip = module.prepare(random_frames(module)).to(dtype)
    found = module.to(dtype)(clip)
    assert found.shape == (2, *module.output_shape(HEIGHT, WIDTH))
    assert found.shape[1] == len(module.channels)
    assert found.dtype == dtype
    assert found.isfinite().all()


def test_the_precision_of_maps_follows_the_clip(module):
    clip = module.prepare(random_frames(module))
    assert module(clip.double()).dtype == torch.float64
    assert module(clip.half()).dtype == torch.float32


@pytest.mark.parametrize("backend", ["auto", "opencv", "torch"])
def test_extracting_bytes_is_the_forward_pass_of_their_floats(module, backend, close, monkeypatch):
    monkeypatch.setenv("MRX_BACKEND", backend)
    frames = random_frames(module)
    with torch.inference_mode():
        found = module.extract(frames)
    assert found.dtype == torch.float32
    assert_close(found, module(module.prepare(frames)), close)
    assert_close(found, module.double()(module.prepare(frames).double()), 2 * close)


def test_trained_weights_are_extracted_as_they_are_trained(module, close):
    frames = random_frames(module)
    with torch.inference_mode(), torch.random.fork_rng():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * parameter.std())
        assert_close(module.extract(frames), module(module.prepare(frames)), 2 * close)


def test_a_batch_is_its_windows_one_by_one(module, close):
    frames = random_frames(module, batch=3)
    with torch.inference_mode():
        extracted = torch.cat([module.extract(window[None]) for window in frames])
        computed = torch.cat([module(module.prepare(window[None])) for window in frames])
        assert torch.equal(module.extract(frames), extracted)
        assert_close(module(module.prepare(frames)), computed, close)


def test_no_windows_give_no_maps(module):
    frames = random_frames(module)[:0]
    shape = (0, *module.output_shape(HEIGHT, WIDTH))
    with torch.inference_mode():
        assert module.extract(frames).shape == shape
        assert module(module.prepare(frames)).shape == shape


def test_frames_stay_as_they_were(module):
    frames = random_frames(module)
    clip = module.prepare(frames)
    copies = frames.clone(), clip.clone()
    module(clip)
    module.extract(frames)
    assert torch.equal(frames, copies[0])
    assert torch.equal(clip, copies[1])


def test_a_still_video_gives_next_to_nothing(name, module):
    frames = random_frames(module, frames=1).expand(-1, module.length, -1, -1, -1)
    moving = [i for i, channel in enumerate(module.channels) if channel != "confidence"]
    for found in (module.extract(frames), module(module.prepare(frames))):
        assert found[:, moving].abs().max() <= STILL[name]


def test_gradients_are_those_of_finite_differences(name):
    small = methods.find_method(name).build_module(SMALL[name]).double()
    torch.manual_seed(0)
    sides = max(5, small.smallest), max(4, small.smallest)
    clip = torch.randn(1, small.length, colors_of(small), *sides, dtype=torch.float64)
    clip.requires_grad_()
    assert torch.autograd.gradcheck(small, clip, fast_mode=small.smallest > 5)
    if STATE[name]:
        weights = dict(small.named_parameters())
        functional = torch.func.functional_call
        assert torch.autograd.gradcheck(
            lambda *values: functional(small, dict(zip(weights, values, strict=True)), clip.data),
            tuple(weights.values()),
        )


def test_autocast_leaves_the_numbers_as_they_are(module):
    clip = module.prepare(random_frames(module))
    frames = random_frames(module)
    with torch.no_grad():
        extracted = module.extract(frames)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(clip)
        with torch.no_grad():
            assert torch.equal(module.extract(frames), extracted)
    assert found.dtype == torch.float32
    assert torch.equal(found, module(clip))


def test_state_dicts_keep_the_official_names_and_shapes(name, module):
    assert {key: tuple(v.shape) for key, v in module.state_dict().items()} == STATE[name]
    module.load_state_dict(methods.find_method(name).build_module({}).state_dict())


def test_clips_of_another_shape_are_refused(module):
    shape = f"takes clips \\(B, {module.length}, {colors_of(module)}, H, W\\), got"
    for wrong in (random_frames(module, frames=module.length + 1), random_frames(module)[0]):
        with pytest.raises(ShapeError, match=shape):
            module(wrong.float())
        with pytest.raises(ShapeError, match=shape), torch.inference_mode():
            module.extract(wrong)


def test_frames_below_the_smallest_size_are_refused(module):
    least = module.smallest
    found = module(random_frames(module, height=least, width=least).float())
    assert found.shape[1:] == module.output_shape(least, least)
    if least > 1:
        with pytest.raises(ShapeError, match=f"at least {least}x{least} pixels"):
            module(random_frames(module, height=least - 1).float())


def test_maps_of_bytes_rarely_exceed_the_bound(module):
    frames = random_frames(module)
    if module.units != "px":
        noise = torch.rand(1, module.length, 3, 4, 5) * 255
        flat, shape = noise.flatten(0, 2), (HEIGHT * 3, WIDTH * 3)
        smooth = torch.nn.functional.interpolate(flat[None], shape, mode="bicubic")[0]
        frames = smooth.clamp(0, 255).byte().view(*noise.shape[:3], *shape)
    assert 0 < module.bound < float("inf")
    assert (module.extract(frames).abs() > module.bound).float().mean() <= 0.01


def test_facts_are_plain_values(module):
    plain = (str, int, float, bool, list)
    assert all(isinstance(value, plain) for value in module.collect_facts().values())


def test_parameters_are_read_from_text_as_they_are_annotated(name):
    method = methods.find_method(name)
    defaults = method.complete_parameters({})
    assert (
        method.complete_parameters({key: str(value) for key, value in defaults.items()}) == defaults
    )


def test_unknown_parameters_are_refused_with_a_list_of_the_known(name):
    with pytest.raises(UsageError, match=f"{name} has no parameter colour; it has "):
        methods.find_method(name).complete_parameters({"colour": "1"})


def test_parameters_that_the_module_refuses_are_usage_errors():
    with pytest.raises(UsageError, match="mbpm: size=8: the kernel needs an odd number"):
        methods.find_method("mbpm").build_module({"size": 8})


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [("x", int, "not of type int"), ("maybe", bool, "not of type bool")],
)
def test_text_that_cannot_be_read_is_refused(text, kind, message):
    with pytest.raises(UsageError, match=f"a.b={text}: {message}"):
        read_value("a.b", text, kind)


def test_a_method_without_a_scaling_is_refused():
    with pytest.raises(TypeError, match="Representation does not scale frames: define prepare"):
        Representation().extract(torch.zeros(1, 1, 3, 2, 2))


def test_one_backend_at_least_is_there():
    assert kernels.has_backend("torch")


@pytest.mark.gpu
def test_a_gpu_gives_the_maps_of_the_cpu(module, close, device, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    frames = random_frames(module)
    with torch.inference_mode():
        expected = module(module.prepare(frames))
        found = module.to(device).extract(frames.to(device))
    assert found.device.type == device.type
    assert_close(found.cpu(), expected, 10 * close)

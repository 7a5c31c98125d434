"""`mrx.extract` and `mrx.open`: the command line's work from Python."""

import numpy as np
import pytest
import torch
from support import videos

import mrx
from mrx.decode import open_video
from mrx.errors import NoInputError, OutputError, UsageError
from mrx.job import Decoding, Storage, Windowing
from mrx.methods.mbpm import MBPM


@pytest.fixture
def clip(tmp_path):
    return videos.clip(tmp_path / "a.mp4", 12)


def test_extract_gives_the_sum_and_open_the_maps(clip, tmp_path):
    summary = mrx.extract(clip, tmp_path / "out")
    assert (summary.ok, summary.failed, summary.exit_code) == (1, 0, 0)
    assert summary.shards == [str(tmp_path / "out" / "shard-00000.h5")]
    with mrx.open(tmp_path / "out") as shards:
        assert shards["a.mp4"]["mbpm"][1:3].shape == (2, 3, 64, 80)


def test_what_is_extracted_is_what_the_module_computes(clip, tmp_path):
    mrx.extract(clip, tmp_path / "out", storage=Storage(dtype="float32"))
    frames = torch.cat([run["rgb"].data for run in open_video(clip).read_frames()])
    clips = frames.permute(0, 3, 1, 2).unflatten(0, (4, 3))
    module = MBPM()
    with torch.inference_mode():
        expected = module(module.prepare(clips)).numpy()
    with mrx.open(tmp_path / "out") as shards:
        assert np.allclose(shards["a.mp4"]["mbpm"][:], expected, atol=2e-6 * abs(expected).max())


def test_options_are_the_command_lines(clip, tmp_path):
    mrx.extract(
        [clip],
        tmp_path / "out",
        method=["mbpm", "pa"],
        parameters={"pa": {"n_length": 4}},
        decoding=Decoding(size=(40, 32)),
        windowing=Windowing(segments=2),
    )
    with mrx.open(tmp_path / "out") as shards:
        assert shards["a.mp4"]["mbpm"].shape == (2, 3, 32, 40)
        assert shards["a.mp4"]["pa"].shape == (2, 3, 32, 40)


def test_trained_weights_decide_the_numbers_and_their_hash_is_kept(clip, tmp_path):
    module = MBPM()
    with torch.no_grad():
        module.conv_t.weight.mul_(2)
    state = {f"module.base_model.mbpf1.{k}": v for k, v in module.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "trained.pt")
    exact = Storage(dtype="float32")
    mrx.extract(clip, tmp_path / "plain", storage=exact)
    weights = {"mbpm": str(tmp_path / "trained.pt")}
    mrx.extract(clip, tmp_path / "trained", weights=weights, storage=exact)
    with mrx.open(tmp_path / "plain") as plain, mrx.open(tmp_path / "trained") as trained:
        maps = trained["a.mp4"]["mbpm"]
        once, twice = plain["a.mp4"]["mbpm"][:], maps[:]
        assert np.allclose(twice, 2 * once, atol=1e-4 * abs(once).max())
        assert '"weights": "' in maps.attrs["params_json"]
    with pytest.raises(OutputError, match=r"made with mbpm\.weights=default"):
        mrx.extract(clip, tmp_path / "plain", weights=weights, storage=exact)


def test_errors_are_raised_for_what_cannot_be_meant(clip, tmp_path):
    with pytest.raises(UsageError, match="no method nope"):
        mrx.extract(clip, tmp_path / "out", method="nope")
    with pytest.raises(NoInputError, match="nowhere"):
        mrx.extract(tmp_path / "nowhere.mp4", tmp_path / "out")


BAD = [
    ({"parameters": {"sigma": 0.9}}, r"sigma=0.9\): say of which method, as in {'mbpm': "),
    ({"parameters": {"mbmp": {"sigma": 0.9}}}, "parameters for mbmp: it is not among the methods"),
    ({"parameters": {"mbpm": {"sigm": 0.9}}}, "mbpm has no parameter sigm; it has sigma=1.1"),
    ({"weights": {"pa": "x.pt"}}, "weights for pa: it is not among the methods"),
    ({"method": []}, "no method: give at least one"),
    ({"output": ""}, "give a folder of this machine"),
    ({"output": "s3://b/x"}, "give a folder of this machine"),
]


@pytest.mark.parametrize(("options", "text"), BAD)
def test_what_cannot_be_meant_says_what_is_right(clip, tmp_path, monkeypatch, options, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=text):
        mrx.extract(clip, **options)
    assert not list(tmp_path.rglob("*.h5"))


def test_a_method_named_twice_is_done_once(clip, tmp_path):
    mrx.extract(clip, tmp_path / "out", method=["mbpm", "mbpm"])
    with mrx.open(tmp_path / "out") as shards:
        assert shards["a.mp4"]["mbpm"].shape == (4, 3, 64, 80)


def test_a_listener_hears_every_step(clip, tmp_path):
    heard = []

    class Ear(mrx.Listener):
        def row(self, row):
            heard.append((row.key, row.status))

    mrx.extract(clip, tmp_path / "out", listener=Ear())
    assert heard == [("a.mp4", "ok")]


def test_the_public_names_are_these():
    assert mrx.__all__ == ["Listener", "extract", "open"]
    with pytest.raises(AttributeError, match="no attribute banana"):
        mrx.banana  # noqa: B018


def test_it_works_in_another_thread(clip, tmp_path):
    import threading

    ended = []
    thread = threading.Thread(target=lambda: ended.append(mrx.extract(clip, tmp_path / "out").ok))
    thread.start()
    thread.join()
    assert ended == [1]

"""`mrx.extract` and `mrx.open`: the command line's work from Python."""

import logging

import av
import cv2
import numpy as np
import pytest
import torch
from support import videos

import mrx
from mrx.decode import open_video, pyav
from mrx.errors import NoInputError, OutputError, UsageError
from mrx.job import Decoding, Storage, Windowing
from mrx.kernels import choose_backend
from mrx.methods.mbpm import MBPM


@pytest.fixture
def clip(tmp_path):
    return videos.write_clip(tmp_path / "a.mp4", 12)


def test_extract_gives_the_sum_and_open_the_maps(clip, tmp_path):
    summary = mrx.extract(clip, tmp_path / "out")
    assert (summary.ok, summary.failed, summary.exit_code) == (1, 0, 0)
    assert summary.shards == [str(tmp_path / "out" / "shard-00000.h5")]
    with mrx.open(tmp_path / "out") as shards:
        assert shards["a.mp4"]["mbpm"][1:3].shape == (2, 3, 64, 80)


def test_extracted_maps_equal_those_of_the_module(clip, tmp_path):
    mrx.extract(clip, tmp_path / "out", storage=Storage(dtype="float32"))
    frames = torch.cat([run["rgb"].data for run in open_video(clip).read_frames()])
    clips = frames.permute(0, 3, 1, 2).unflatten(0, (4, 3))
    module = MBPM()
    with torch.inference_mode():
        expected = module(module.prepare(clips)).numpy()
    with mrx.open(tmp_path / "out") as shards:
        assert np.allclose(shards["a.mp4"]["mbpm"][:], expected, atol=2e-6 * abs(expected).max())


def test_options_have_the_effect_of_the_command_line(clip, tmp_path):
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


def test_trained_weights_change_the_maps_and_their_hash_is_kept(clip, tmp_path):
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


def test_unknown_methods_and_missing_inputs_raise_errors(clip, tmp_path):
    with pytest.raises(UsageError, match="no method nope"):
        mrx.extract(clip, tmp_path / "out", method="nope")
    with pytest.raises(NoInputError, match="nowhere"):
        mrx.extract(tmp_path / "nowhere.mp4", tmp_path / "out")


BAD = [
    ({"parameters": {"sigma": 0.9}}, r"sigma=0.9\): no method named. Group them by method, as in"),
    ({"parameters": {"mbmp": {"sigma": 0.9}}}, "parameters for mbmp: it is not among the methods"),
    ({"parameters": {"mbpm": {"sigm": 0.9}}}, "mbpm has no parameter sigm; it has sigma=1.1"),
    ({"weights": {"pa": "x.pt"}}, "weights for pa: it is not among the methods"),
    ({"method": []}, "no method: give at least one"),
    ({"output": ""}, "give a local folder"),
    ({"output": "s3://b/x"}, "give a local folder"),
]


@pytest.mark.parametrize(("options", "text"), BAD)
def test_invalid_options_are_refused_with_an_explanation(
    clip, tmp_path, monkeypatch, options, text
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=text):
        mrx.extract(clip, **options)
    assert not list(tmp_path.rglob("*.h5"))


def test_a_method_named_twice_is_done_once(clip, tmp_path):
    mrx.extract(clip, tmp_path / "out", method=["mbpm", "mbpm"])
    with mrx.open(tmp_path / "out") as shards:
        assert shards["a.mp4"]["mbpm"].shape == (4, 3, 64, 80)


def test_a_listener_receives_every_row(clip, tmp_path):
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


def test_extract_works_in_another_thread(clip, tmp_path):
    import threading

    ended = []
    thread = threading.Thread(target=lambda: ended.append(mrx.extract(clip, tmp_path / "out").ok))
    thread.start()
    thread.join()
    assert ended == [1]


@pytest.fixture
def unusual_process():
    """Settings of this process that no run would choose, and a way to read them."""

    def read():
        tf32, logger = torch.backends.cudnn.allow_tf32, logging.getLogger("libav")
        log = av.logging.get_level(), list(logger.handlers), logger.propagate
        return torch.get_num_threads(), cv2.getNumThreads(), tf32, choose_backend(), log

    kept, log = read(), pyav.read_log_settings()
    pyav.restore_log_settings(pyav.LogSettings(None, (), propagate=True))
    torch.set_num_threads(3)
    cv2.setNumThreads(2)
    torch.backends.cudnn.allow_tf32 = True
    yield read
    torch.set_num_threads(kept[0])
    cv2.setNumThreads(kept[1])
    torch.backends.cudnn.allow_tf32 = kept[2]
    pyav.restore_log_settings(log)


def test_the_process_is_left_as_it_was(clip, tmp_path, unusual_process):
    before = unusual_process()
    during = []

    class Watch(mrx.Listener):
        def row(self, row):
            during.append(unusual_process())

    mrx.extract(clip, tmp_path / "out", backend="torch", listener=Watch())
    assert [state[:4] for state in during] == [(1, 1, False, "torch")]
    assert during[0][4] != before[4]
    assert before[4] == (None, [], True)
    assert unusual_process() == before


def test_the_process_is_left_as_it_was_after_an_error(clip, tmp_path, unusual_process):
    class Stop(mrx.Listener):
        def row(self, row):
            raise KeyError("from a listener")

    before = unusual_process()
    with pytest.raises(KeyError, match="from a listener"):
        mrx.extract(clip, tmp_path / "out", listener=Stop())
    with pytest.raises(UsageError, match="sigma"):
        mrx.extract(clip, tmp_path / "new", parameters={"mbpm": {"sigma": "wide"}})
    with pytest.raises(UsageError, match=r"backend must be one of .*, not cuda"):
        mrx.extract(clip, tmp_path / "new", backend="cuda")
    assert unusual_process() == before


def test_runs_side_by_side_do_not_mix_backends(clip, tmp_path):
    class Second(mrx.Listener):
        def row(self, row):
            mrx.extract(clip, tmp_path / "b", backend="opencv")

    with pytest.raises(UsageError, match="another run of this process uses torch"):
        mrx.extract(clip, tmp_path / "a", backend="torch", listener=Second())


def test_a_caller_may_use_the_new_precision_settings(clip, tmp_path):
    cudnn = torch.backends.cudnn
    kept, legacy = cudnn.conv.fp32_precision, cudnn.allow_tf32
    cudnn.conv.fp32_precision = "tf32" if kept == "ieee" else "ieee"
    before = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, choose_backend()
    try:
        assert mrx.extract(clip, tmp_path / "out", backend="torch").ok == 1
        after = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, choose_backend()
    finally:
        cudnn.conv.fp32_precision = kept
        cudnn.allow_tf32 = legacy
    assert after == before


def test_every_thread_gets_its_number_of_threads_back(clip, tmp_path, unusual_process):
    before = unusual_process()

    class Second(mrx.Listener):
        def row(self, row):
            import threading

            run = threading.Thread(target=lambda: mrx.extract(clip, tmp_path / "b"))
            run.start()
            run.join()

    mrx.extract(clip, tmp_path / "a", listener=Second())
    assert unusual_process() == before


def test_errors_of_workers_have_the_class_they_have_here(clip, tmp_path):
    for workers in (0, 1):
        with pytest.raises(UsageError, match="has no parameter x"):
            mrx.extract(clip, tmp_path / "out", parameters={"mbpm": {"x": 1}}, workers=workers)

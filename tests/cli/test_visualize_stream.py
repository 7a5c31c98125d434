"""`-o -` in pipes to other programs, run by a shell."""

import shutil
import signal
import subprocess
import sys

import av
import pytest
from support.videos import write_clip

MRX = f"{sys.executable} -m mrx"
COUNT = "ffprobe -v error -count_frames -select_streams v -of csv=p=0 -show_entries"
FACTS = "stream=codec_name,width,height,pix_fmt,color_space,avg_frame_rate,nb_read_frames"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in")
    write_clip(folder / "a.mp4", 21, height=49, width=65, pix_fmt="yuv444p")
    return folder


def shell(command, folder):
    """Run in bash; return each program's exit code, the output and the lines of stderr."""
    command = f"{command}; echo ${{PIPESTATUS[@]}} >&2"
    ran = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=120
    )
    *said, codes = ran.stderr.splitlines()
    return [int(code) for code in codes.split()], ran.stdout, said


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not here")
def test_ffmpeg_reads_the_size_rate_and_colors_of_the_stream(folder):
    ffmpeg = "tee same | ffmpeg -v error -nostdin -i - -c:v ffv1 -y b.mkv"
    command = f"{MRX} visualize a.mp4 -m mbpm -m pa -o - --fps 12 | {ffmpeg}"
    assert shell(command, folder) == ([0, 0, 0], "", [])
    with av.open(str(folder / "b.mkv")) as container:
        frames = list(container.decode(video=0))
        rate = container.streams.video[0].average_rate
    width, height = 3 * 65 + 4 * 2, 5 * 49 + 6 * 2
    size = (width + width % 2, height + height % 2)
    assert (len(frames), rate) == (7, 12)
    assert (frames[0].width, frames[0].height) == size
    said = f"h264,{size[0]},{size[1]},yuv420p,bt709,12/1,7"
    assert shell(f"{COUNT} {FACTS} same", folder) == ([0], f"{said}\n", [])


@pytest.mark.slow
def test_a_reader_that_closes_the_pipe_ends_the_run_by_sigpipe(folder):
    command = f"{MRX} visualize a.mp4 -m mbpm --step 1 -o - --scale 8 | head -c 2000 | wc -c"
    codes, found, said = shell(command, folder)
    assert (codes, found.strip(), said) == ([128 + signal.SIGPIPE, 0, 0], "2000", [])

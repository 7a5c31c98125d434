"""Every example runs, and does what it says."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import h5py
import pytest

import mrx

EXAMPLES = Path(__file__).parents[1] / "examples"
MEDIA = EXAMPLES / "media"
OWN = EXAMPLES / "06_own_method"


def run(*command, cwd, **environment):
    """Run a command that finds this interpreter's mrx; what it said."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def shell(name, folder):
    """Run a shell example in an empty folder, and let it write into that folder."""
    done = run("bash", EXAMPLES / name, folder, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    mrx.extract(MEDIA, folder / "out", method=["mbpm", "dynamic-image"])
    return folder / "out"


@pytest.mark.slow
def test_01_extracts_a_folder_with_two_methods(tmp_path):
    said = shell("01_extract.sh", tmp_path)
    with mrx.open(tmp_path / "shards") as found:
        assert {key: sorted(video) for key, video in found.items()} == {
            f"{name}.mp4": ["dynamic-image", "mbpm"]
            for name in ("approach", "deform", "rotate", "translate")
        }
    assert "no problems" in said.stderr


def test_02_reads_a_shard_without_mrx(shards, tmp_path):
    script = EXAMPLES / "02_read_shard.py"
    done = run(sys.executable, script, shards / "shard-00000.h5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rotate.mp4: 60 frames of 320x240\n" in done.stdout
    assert "  mbpm (20, 3, 240, 320) float16, in a.u.\n" in done.stdout
    assert "mrx" not in re.findall(r"^(?:import|from) (\w+)", script.read_text(), re.M)


@pytest.mark.slow
def test_03_takes_lists_csv_stdin_and_shares(tmp_path):
    shell("03_many_inputs.sh", tmp_path)
    keys = {}
    for name in ("from-list", "from-csv", "from-stdin", "shares"):
        with mrx.open(tmp_path / name) as found:
            keys[name] = sorted(found)
    every = sorted(path.name for path in MEDIA.glob("*.mp4"))
    assert keys == {
        "from-list": ["deform.mp4", "rotate.mp4", "translate.mp4"],
        "from-csv": ["approach/begin", "approach/end"],
        "from-stdin": every,
        "shares": every,
    }


@pytest.mark.slow
def test_04_joins_mrx_with_other_tools(tmp_path):
    said = shell("04_pipeline.sh", tmp_path)
    assert "80 maps of 4 videos\n" in said.stdout
    assert re.search(r"^failed .*broken\.mp4  not a video", said.stdout, re.M)


@pytest.mark.slow
def test_05_trains_the_module_and_the_loss_falls(tmp_path):
    done = run(sys.executable, EXAMPLES / "05_in_a_classifier.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, last, moved = re.search(
        r"loss ([\d.]+) -> ([\d.]+); the filters moved by up to ([\d.]+)", done.stdout
    ).groups()
    assert float(last) < 0.75 * float(first)
    assert float(moved) > 0


@pytest.fixture
def installed(tmp_path):
    """The own method as pip would install it: its modules, and what its pyproject.toml offers."""
    project = tomllib.loads((OWN / "pyproject.toml").read_text())["project"]
    target = tmp_path / "packages"
    facts = target / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = (
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    )
    (facts / "entry_points.txt").write_text("\n".join(groups))
    return {"PYTHONPATH": os.pathsep.join([str(target), str(OWN)])}


@pytest.mark.slow
def test_06_is_a_method_like_any_other(installed, tmp_path):
    program = [sys.executable, "-m", "mrx", "extract", "-m", "frame-difference"]
    options = ["-p", "absolute=true", "--workers", "1", "--json", MEDIA, "-o", "out"]
    done = run(*program, *options, cwd=tmp_path, **installed)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] == 4
    with h5py.File(tmp_path / "out" / "shard-00000.h5") as shard:
        maps = shard["videos/rotate.mp4/frame-difference"]
        assert maps.shape == (59, 1, 240, 320)
        assert list(maps.attrs["channels"]) == ["difference"]
        assert 0 <= maps[...].min() < maps[...].max() <= 1


def test_06_is_described_by_mrx_methods(installed, tmp_path):
    done = run(
        sys.executable, "-m", "mrx", "methods", "frame-difference", cwd=tmp_path, **installed
    )
    assert done.returncode == 0, done.stderr
    assert "2 gray frames, step 1 -> 1 channels (difference)" in done.stdout


def test_every_example_is_in_the_readme_of_the_folder():
    named = set(re.findall(r"^\| \[([^]]+)\]", (EXAMPLES / "README.md").read_text(), re.M))
    assert named == {p.name for p in EXAMPLES.iterdir() if re.match(r"\d\d_", p.name)}


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.sh")), ids=lambda p: p.name)
def test_shell_examples_stop_at_the_first_error(script):
    assert "\nset -euo pipefail\n" in script.read_text()

import pytest
from support import videos


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crash") / "videos"
    folder.mkdir()
    for i in range(3):
        videos.write_clip(folder / f"{i}.mp4", 4 + i, height=24, width=32, seed=i)
    return folder

import base64
import io
import re
import zlib

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pages import read_page
from support.videos import make_texture

from mrx.errors import OutputError, UsageError
from mrx.visualize.page import UNKNOWN_CODE, Page, PagePanel, PanelView, quantize_values

PANELS = (PagePanel("video"), PagePanel("flow", ("a=1",), channels=("dx", "dy"), units="px"))


def panes(number, *, window=None, height=12, width=16, values=None):
    picture = make_texture(height, width, number)
    flow = np.full((2, 3, 4), number, np.float32) if values is None else values
    window = window or (number, number + 1)
    frame = PanelView(picture, (12, 16), (number, number), is_photo=True)
    return [frame, PanelView(picture, (12, 16), window, values=flow, full_strength=5.0)]


def write(path, moments, *, title="a.mp4", panels=PANELS):
    with Page(path, title, panels, 25.0) as page:
        for number, some in enumerate(moments):
            page.add_moment(number, number / 25, some)
    return page


def decoded(url):
    with av.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def unpacked(record):
    data = np.frombuffer(zlib.decompress(base64.b64decode(record["codes"])), np.uint8)
    low, high = data.reshape(2, -1).astype(np.uint16)
    return (low | high << 8).astype(np.uint16).view(np.int16).reshape(-1, *record["size"])


def test_a_page_holds_every_moment_and_needs_nothing_else(tmp_path):
    page = write(tmp_path / "a.html", map(panes, range(5)))
    about, moments = read_page(tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text("utf-8")
    assert [[p["number"] for p in m] for m in moments] == [[i, i] for i in range(5)]
    assert [panel["name"] for panel in about["panels"]] == ["video", "flow"]
    assert (page.count, page.nbytes) == (5, (tmp_path / "a.html").stat().st_size)
    assert not re.search(r"https?:|src=\"(?!data:)|@import|url\(", text)
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]


def test_drawings_and_values_come_back_as_they_were(tmp_path):
    values = np.array([[[1.234, -4.5]], [[np.nan, 0.0]]], np.float32)
    shown = panes(0, values=values)
    write(tmp_path / "a.html", [shown])
    _, [[photo, drawing]] = read_page(tmp_path / "a.html")
    assert (decoded(drawing["picture"]) == shown[1].picture).all()
    assert np.abs(decoded(photo["picture"]).astype(int) - shown[0].picture).mean() < 12
    assert unpacked(drawing["values"]).tolist() == [[[123, -450]], [[UNKNOWN_CODE, 0]]]
    assert drawing["values"]["step"] == pytest.approx(0.01)


@given(
    st.lists(st.floats(-1e10, 1e10, width=32), min_size=1),
    st.floats(1e-6, 1e6),
)
def test_values_are_off_by_half_a_step_at_most(numbers, full):
    values = np.array(numbers, np.float32).reshape(1, 1, -1)
    codes, step = quantize_values(values, full)
    known = np.abs(values) < 1e9
    assert (codes[~known] == UNKNOWN_CODE).all()
    assert (np.abs(codes[known] * step - values[known]) <= step * 0.501).all()
    assert step <= max(full / 300, np.abs(values[known], dtype=float).max(initial=0) / 3276.7)


def test_a_held_map_is_stored_once(tmp_path):
    shown = [panes(0, window=(0, 3)), panes(1, window=(0, 3)), panes(2, window=(2, 5))]
    write(tmp_path / "a.html", [*shown, panes(3, window=(2, 5))])
    _, moments = read_page(tmp_path / "a.html")
    held = [(m[1]["picture"], m[1]["values"]) for m in moments]
    assert (held[1], held[3]) == ((0, 0), (2, 2))
    assert isinstance(held[2][0], str)
    assert all(isinstance(m[0]["picture"], str) for m in moments)


def test_a_map_larger_than_its_picture_keeps_pixel_centers(tmp_path):
    values = np.arange(12 * 16, dtype=np.float32).reshape(1, 12, 16)
    write(tmp_path / "a.html", [panes(0, values=values, height=6, width=4)])
    _, [[_, drawing]] = read_page(tmp_path / "a.html")
    kept = unpacked(drawing["values"])[0] * drawing["values"]["step"]
    assert kept.round().tolist() == values[0, 1::2, 2::4].tolist()


def test_html_in_names_is_escaped(tmp_path):
    name = "</script><img src=x onerror=alert(1)><!--"
    panels = (PagePanel("video"), PagePanel(name, (name,), channels=(name, "dy"), units=name))
    write(tmp_path / "a.html", [panes(0)], title=name, panels=panels)
    text = (tmp_path / "a.html").read_text("utf-8")
    about, _ = read_page(tmp_path / "a.html")
    assert about["panels"][1]["channels"][0] == name
    assert "<img" not in text
    assert "<h1>&lt;/script&gt;&lt;img" in text


def test_a_page_that_was_given_up_leaves_nothing(tmp_path):
    def fail():
        yield panes(0)
        raise KeyError

    with pytest.raises(KeyError):
        write(tmp_path / "a.html", fail())
    assert list(tmp_path.iterdir()) == []


def test_a_page_has_its_name_only_when_it_is_whole(tmp_path):
    (tmp_path / "a.html").write_text("old")
    with Page(tmp_path / "a.html", "a", PANELS, 25.0) as page:
        page.add_moment(0, 0.0, panes(0))
        assert (tmp_path / "a.html").read_text() == "old"
    assert (tmp_path / "a.html").read_text().endswith("</html>\n")


def test_missing_folders_and_too_large_drawings_are_refused(tmp_path):
    with pytest.raises(OutputError, match="no such folder"):
        write(tmp_path / "none" / "a.html", [])
    with pytest.raises(UsageError, match="16400x4 is too large: give a smaller --scale"):
        write(tmp_path / "a.html", [panes(0, height=4, width=16400)])
    assert list(tmp_path.iterdir()) == []

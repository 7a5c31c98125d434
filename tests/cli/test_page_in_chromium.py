import pytest
from support.chromium import Chromium
from support.command import mrx
from support.videos import clip

import mrx as library

METHODS = ("mbpm", "tvl1", "ms")
NAMES = ("video", "mbpm", "tvl1", "ms dx dy", "ms confidence")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A video, its page, and what the library computes from it."""
    folder = tmp_path_factory.mktemp("page")
    video = clip(folder / "a.mp4", 14, height=60, width=84)
    chosen = [word for name in METHODS for word in ("-m", name)]
    assert mrx("visualize", video, *chosen, "-o", folder / "a.html").code == 0
    assert mrx("extract", video, *chosen, "-o", folder / "out", "--dtype", "float32").code == 0
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.fixture
def tab(browser, folder):
    """The page as it is after loading; it neither complains nor asks the network."""
    browser.open((folder / "a.html").as_uri())
    frames(browser, 0)
    yield browser
    names = [name for name, _ in browser.events]
    asked = [p["request"]["url"] for n, p in browser.events if n == "Network.requestWillBeSent"]
    assert not {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"} & {*names}
    assert {url.partition(":")[0] for url in asked} == {"file", "data"}


def frames(tab, number):
    """Wait until a panel shows this frame, and say which each panel shows."""
    shown = "[...document.querySelectorAll('.when')].map((e) => e.textContent)"
    tab.until(f"{shown}.some((text) => text.startsWith('frame {number} '))")
    return dict(zip(NAMES, tab.value(shown), strict=True))


def place(tab, selector, across=0.5, down=0.5):
    """A point of an element, in pixels of the window."""
    box = f"document.querySelector({selector!r}).getBoundingClientRect()"
    left, top, width, height = tab.value(
        f"(({{x, y, width, height}}) => [x, y, width, height])({box})"
    )
    return left + across * width, top + down * height


def values(tab):
    """The words below each picture, once they are there."""
    words = "(e) => [...e.children].map((f) => f.textContent)"
    words = f"[...document.querySelectorAll('.values')].map({words})"
    tab.until(f"{words}.slice(1).every((some) => some.length)")
    return dict(zip(NAMES, tab.value(words), strict=True))


def at_pixel(out, *, frame, x, y):
    """What the maps that stand at a frame have there, by method."""
    found = {}
    with library.open(out) as shards:
        for name, held in shards["a.mp4"].items():
            maps = held[held.items["first"].searchsorted(frame, "right") - 1]
            cell = 60 // maps.shape[1]
            found[name] = maps[:, y // cell, x // cell]
    return found


def number(word):
    """``dx 3.21 px`` as its number, and how far off its last digit leaves it."""
    digits = word.split()[1]
    return float(digits), 0.51 * 10.0 ** -len(digits.partition(".")[2])


def test_the_scrubber_moves_all_panels_to_the_same_frame(tab):
    tab.click(*place(tab, "#scrubber", across=0.75))
    assert set(frames(tab, 9).values()) == {"frame 9 · 0.36 s"}
    assert tab.value("document.getElementById('scrubber').value") == "9"
    assert (
        tab.value(
            "document.querySelector('canvas').getContext('2d').getImageData(9, 9, 1, 1).data[3]"
        )
        == 255
    )


def test_the_pointer_reads_what_the_library_computes(tab, folder):
    tab.click(*place(tab, "#scrubber", across=0.75))
    frames(tab, 9)
    tab.mouse("mouseMoved", *place(tab, "figure:nth-of-type(3) canvas", 33.5 / 84, 42.5 / 60))
    read, computed = values(tab), at_pixel(folder / "out", frame=9, x=33, y=42)
    assert tab.value("document.getElementById('place').textContent") == "x 33, y 42"
    for name in METHODS:
        words = [word for panel, some in read.items() if panel.startswith(name) for word in some]
        for word, value in zip(words, computed[name], strict=True):
            found, near = number(word)
            assert found == pytest.approx(value, abs=near), (name, word)
    assert [word.split()[::2] for word in read["tvl1"]] == [["dx", "px"], ["dy", "px"]]


def test_a_click_holds_the_point_while_time_goes_on(tab):
    tab.click(*place(tab, "figure:nth-of-type(2) canvas", 0.505, 0.505))
    tab.mouse("mouseMoved", *place(tab, "#scrubber"))
    before = values(tab)
    tab.key("End")
    frames(tab, 12)
    assert tab.value("document.getElementById('place').textContent") == "x 42, y 30 held"
    tab.until(
        f"document.querySelectorAll('.values')[2].textContent !== {''.join(before['tvl1'])!r}"
    )


def test_keys_step_and_play(tab):
    tab.key("ArrowRight")
    assert set(frames(tab, 1).values()) == {"frame 1 · 0.04 s"}
    tab.key("ArrowLeft")
    frames(tab, 0)
    tab.key(" ")
    tab.until("document.getElementById('scrubber').value > 2")
    assert tab.value("document.getElementById('play').textContent") == "Pause"


def test_pictures_fit_into_a_narrow_window(tab):
    size = {"width": 320, "height": 600, "deviceScaleFactor": 1, "mobile": False}
    tab.ask("Emulation.setDeviceMetricsOverride", **size)
    fits = tab.value("document.documentElement.scrollWidth <= innerWidth && innerWidth === 320")
    tab.ask("Emulation.clearDeviceMetricsOverride")
    assert fits

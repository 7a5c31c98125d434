import pytest
from support.chromium import Chromium
from support.command import mrx
from support.videos import write_clip

import mrx as library

METHODS = ("mbpm", "tvl1", "ms")
NAMES = ("video", "mbpm", "tvl1", "ms dx dy", "ms confidence")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make a video, its page, and the maps that the library computes from it."""
    folder = tmp_path_factory.mktemp("page")
    video = write_clip(folder / "a.mp4", 14, height=60, width=84)
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
    """Load the page, and check at the end that it logged nothing and used no network."""
    browser.open_page((folder / "a.html").as_uri())
    frames(browser, 0)
    yield browser
    names = [name for name, _ in browser.events]
    asked = [p["request"]["url"] for n, p in browser.events if n == "Network.requestWillBeSent"]
    assert not {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"} & {*names}
    assert {url.partition(":")[0] for url in asked} == {"file", "data"}


def frames(tab, number):
    """Wait until a panel shows this frame, and return the caption of each panel."""
    shown = "[...document.querySelectorAll('.when')].map((e) => e.textContent)"
    tab.wait_until(f"{shown}.some((text) => text.startsWith('frame {number} '))")
    return dict(zip(NAMES, tab.evaluate(shown), strict=True))


def place(tab, selector, across=0.5, down=0.5):
    """Return a point of an element in pixels of the window."""
    box = f"document.querySelector({selector!r}).getBoundingClientRect()"
    left, top, width, height = tab.evaluate(
        f"(({{x, y, width, height}}) => [x, y, width, height])({box})"
    )
    return left + across * width, top + down * height


def values(tab):
    """Wait for the texts below the pictures and return them by panel."""
    words = "(e) => [...e.children].map((f) => f.textContent)"
    words = f"[...document.querySelectorAll('.values')].map({words})"
    tab.wait_until(f"{words}.slice(1).every((some) => some.length)")
    return dict(zip(NAMES, tab.evaluate(words), strict=True))


def at_pixel(out, *, frame, x, y):
    """Return the values at a pixel of the maps shown at a frame, by method."""
    found = {}
    with library.open(out) as shards:
        for name, held in shards["a.mp4"].items():
            maps = held[held.items["first"].searchsorted(frame, "right") - 1]
            cell = 60 // maps.shape[1]
            found[name] = maps[:, y // cell, x // cell]
    return found


def number(word):
    """Parse ``dx 3.21 px`` into its number and the rounding error of its last digit."""
    digits = word.split()[1]
    return float(digits), 0.51 * 10.0 ** -len(digits.partition(".")[2])


def test_the_scrubber_moves_all_panels_to_the_same_frame(tab):
    tab.click(*place(tab, "#scrubber", across=0.75))
    assert set(frames(tab, 9).values()) == {"frame 9 · 0.36 s"}
    assert tab.evaluate("document.getElementById('scrubber').value") == "9"
    assert (
        tab.evaluate(
            "document.querySelector('canvas').getContext('2d').getImageData(9, 9, 1, 1).data[3]"
        )
        == 255
    )


def test_values_under_the_pointer_equal_the_computed_ones(tab, folder):
    tab.click(*place(tab, "#scrubber", across=0.75))
    frames(tab, 9)
    tab.send_mouse_event(
        "mouseMoved", *place(tab, "figure:nth-of-type(3) canvas", 33.5 / 84, 42.5 / 60)
    )
    read, computed = values(tab), at_pixel(folder / "out", frame=9, x=33, y=42)
    assert tab.evaluate("document.getElementById('place').textContent") == "x 33, y 42"
    for name in METHODS:
        words = [word for panel, some in read.items() if panel.startswith(name) for word in some]
        for word, value in zip(words, computed[name], strict=True):
            found, near = number(word)
            assert found == pytest.approx(value, abs=near), (name, word)
    assert [word.split()[::2] for word in read["tvl1"]] == [["dx", "px"], ["dy", "px"]]


def test_a_click_holds_the_point_while_time_goes_on(tab):
    tab.click(*place(tab, "figure:nth-of-type(2) canvas", 0.505, 0.505))
    tab.send_mouse_event("mouseMoved", *place(tab, "#scrubber"))
    before = values(tab)
    tab.press_key("End")
    frames(tab, 12)
    assert tab.evaluate("document.getElementById('place').textContent") == "x 42, y 30 held"
    tab.wait_until(
        f"document.querySelectorAll('.values')[2].textContent !== {''.join(before['tvl1'])!r}"
    )


def test_keys_step_and_play(tab):
    tab.press_key("ArrowRight")
    assert set(frames(tab, 1).values()) == {"frame 1 · 0.04 s"}
    tab.press_key("ArrowLeft")
    frames(tab, 0)
    tab.press_key(" ")
    tab.wait_until("document.getElementById('scrubber').value > 2")
    assert tab.evaluate("document.getElementById('play').textContent") == "Pause"


def test_pictures_fit_into_a_narrow_window(tab):
    size = {"width": 320, "height": 600, "deviceScaleFactor": 1, "mobile": False}
    tab.send_command("Emulation.setDeviceMetricsOverride", **size)
    fits = tab.evaluate("document.documentElement.scrollWidth <= innerWidth && innerWidth === 320")
    tab.send_command("Emulation.clearDeviceMetricsOverride")
    assert fits

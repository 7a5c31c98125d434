import subprocess
import sys
from importlib import metadata

import pytest
from click.testing import CliRunner

from mrx import cli, methods
from mrx.errors import UsageError
from mrx.methods.mbpm import METHOD
from mrx.methods.table import METHOD_MODULES


class Offer:
    value = "other.package:METHOD"

    def __init__(self, content):
        self.content = content

    def load(self):
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


class Offers(dict):
    @property
    def names(self):
        return set(self)

    def select(self, *, name):
        return [self[name]] if name in self else []


@pytest.fixture
def offer(monkeypatch):
    offers = Offers()
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: offers)
    return lambda name, content: offers.update({name: Offer(content)})


@pytest.mark.parametrize("name", methods.list_method_names())
def test_every_name_finds_the_method_of_that_name(name):
    assert methods.find_method(name).name == name


def test_an_unknown_name_is_refused_with_a_list_of_the_known(offer):
    offer("their-flow", METHOD)
    with pytest.raises(UsageError, match=r"no method flowz: choose from .*mbpm, .*their-flow"):
        methods.find_method("flowz")


def test_chosen_names_keep_their_order_without_duplicates(offer):
    offer("their-flow", METHOD)
    assert methods.choose_methods(["tvl1", "their-flow", "tvl1"]) == ("tvl1", "their-flow")
    assert methods.choose_methods(()) == ()


def test_an_unknown_name_among_the_chosen_is_refused():
    with pytest.raises(UsageError, match="no method flowz: choose from mbpm, dynamic-image"):
        methods.choose_methods(["mbpm", "flowz"])


def test_another_package_can_offer_a_method(offer):
    offer("their-flow", METHOD)
    assert methods.find_method("their-flow") is METHOD


def test_a_built_in_method_wins_over_one_of_the_same_name(offer):
    offer("mbpm", "theirs")
    assert methods.find_method("mbpm") is METHOD


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            ImportError("no module named x"),
            "their-flow: other.package:METHOD does not load: no mod",
        ),
        (RuntimeError("half installed"), "their-flow: other.package:METHOD does not load: half"),
        ("text", "their-flow: its entry point gives 'text', not a Method"),
    ],
)
def test_an_offer_that_is_no_method_is_refused(offer, content, message):
    offer("their-flow", content)
    with pytest.raises(UsageError, match=message):
        methods.find_method("their-flow")


def test_a_package_that_does_not_load_leaves_the_other_methods(offer):
    offer("their-flow", RuntimeError("half installed"))
    ran = CliRunner().invoke(cli.main, ["methods"])
    assert ran.exit_code == 0
    assert "warning: method their-flow: other.package:METHOD does not load" in ran.stderr
    assert len(ran.stdout.splitlines()) == len(METHOD_MODULES)


def test_names_are_known_without_a_heavy_import():
    code = (
        "import sys; from mrx.methods import list_method_names as names; names(); "
        "print([m for m in ('torch', 'numpy', 'cv2', 'numba') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(("text", "value"), [("none", "none"), ("None", None), ("local", "local")])
def test_none_is_a_choice_where_it_is_one(text, value):
    assert methods.find_method("tvl1").complete_parameters({"light": text})["light"] == value


def test_a_choice_in_capitals_is_refused():
    with pytest.raises(UsageError, match=r"tvl1.light=NONE: choose from none, frame, local"):
        methods.find_method("tvl1").complete_parameters({"light": "NONE"})

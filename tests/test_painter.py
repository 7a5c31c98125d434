"""Panels and what stands below them."""

import numpy as np
import pytest

from mrx import render
from mrx.painter import Look, Painter
from mrx.preview import Moment, Track


def painter(*channels, units="px"):
    track = Track("ms", channels, units, {})
    made = Painter([track], Look(legend=True))
    made.measure(moment(len(channels)))
    return made


def moment(channels):
    maps = np.linspace(0, 1, channels * 8 * 9, dtype=np.float32).reshape(channels, 8, 9)
    return Moment(0, 0.0, None, (maps,), ((0, 1),))


def test_displacement_and_confidence_have_a_legend_each():
    made = painter("dx", "dy", "confidence")
    wheel, bar = made._keys(0, last=True)
    assert np.array_equal(bar, render.legend(["confidence"], units="px", scale=1.0))
    assert wheel.shape != bar.shape
    assert np.array_equal(made._keys(0, last=False)[1], bar)


@pytest.mark.parametrize(("last", "places"), [(True, [False, True]), (False, [True, False])])
def test_parts_of_one_kind_share_a_legend(last, places):
    made = painter("pa0", "pa1", units="a.u.")
    assert [one is not None for one in made._keys(0, last=last)] == places

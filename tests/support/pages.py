"""What stands in a page of HTML that `mrx visualize` wrote."""

import json
import re

BLOCK = re.compile(r'<script type="application/json" class="(\w+)">(.*?)</script>', re.DOTALL)


def read(path):
    """What a page says of itself, and its moments."""
    found = [(kind, json.loads(data)) for kind, data in BLOCK.findall(path.read_text("utf-8"))]
    kinds = [kind for kind, _ in found]
    assert kinds == ["about"] + ["moment"] * (len(found) - 1)
    return found[0][1], [data for _, data in found[1:]]


def names(about):
    """What the panels are called, with what tells them apart."""
    return [" ".join([panel["name"], *panel["details"]]) for panel in about["panels"]]

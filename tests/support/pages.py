"""Read the data blocks of an HTML page that `mrx visualize` wrote."""

import json
import re

BLOCK = re.compile(r'<script type="application/json" class="(\w+)">(.*?)</script>', re.DOTALL)


def read_page(path):
    """Read the description of a page and the list of its moments."""
    found = [(kind, json.loads(data)) for kind, data in BLOCK.findall(path.read_text("utf-8"))]
    kinds = [kind for kind, _ in found]
    assert kinds == ["about"] + ["moment"] * (len(found) - 1)
    return found[0][1], [data for _, data in found[1:]]


def list_names(about):
    """List the names of the panels, each with its details."""
    return [" ".join([panel["name"], *panel["details"]]) for panel in about["panels"]]

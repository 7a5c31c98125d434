"""Print figures on the style of the source: names, docstrings, comments, sizes and imports.

    python tests/house_figures.py [folder of a checkout] [--list]

The table has a line for each figure. `--list` also lists the places that are counted.
"""

import ast
import io
import re
import sys
import tokenize
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from test_house import import_violations

RIDDLES = ("what", "whatever", "how", "whether", "where", "who", "whom", "which", "why")
LONG_FILE, LONG_CLASS = 400, 150
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Figure:
    """Hold a share of a whole, or a plain count, with the places counted."""

    title: str
    places: list[str] = field(default_factory=list)
    whole: int = 0

    def count_place(self, place, counts):
        self.whole += 1
        if counts:
            self.places.append(place)

    def __str__(self):
        share = f" of {self.whole} ({len(self.places) / self.whole:.1%})" if self.whole else ""
        return f"{self.title:<52} {len(self.places)}{share}"


def own_line_comments(source):
    """List the numbers of lines that hold only a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [t.start[0] for t in tokens if t.type == tokenize.COMMENT and t.line.strip()[0] == "#"]


def is_dunder(name):
    return name.startswith("__") and name.endswith("__")


def is_one_word(name):
    """Return true for ``put``, ``_put`` and ``Pipe``, not for ``put_item`` and ``WindowBatch``."""
    bare = name.strip("_")
    return "_" not in bare and not re.search("[a-z][A-Z]|[A-Z][A-Z][a-z]", bare)


class Figures:
    """Collect the figures of a tree of modules."""

    def __init__(self):
        self.functions = Figure("one-word function names")
        self.classes = Figure("one-word class names")
        self.riddles = Figure("docstrings that open with what, how, whether, ...")
        self.comments = Figure("own-line comments, of all lines")
        self.twice = Figure("public names defined in two modules")
        self.long_classes = Figure(f"classes over {LONG_CLASS} lines")
        self.upward = Figure("imports against the table")
        self.long_files = Figure(f"files over {LONG_FILE} lines")
        self._homes = defaultdict(set)

    def add_module(self, path, source):
        """Add the counts of a module."""
        tree = ast.parse(source)
        self.comments.places += [f"{path}:{line}" for line in own_line_comments(source)]
        self.comments.whole += source.count("\n")
        self.long_files.places += [path] if source.count("\n") > LONG_FILE else []
        self.upward.places += import_violations(path, source)
        for node in tree.body:
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
                self._homes[node.name].add(path)
        self._add_docstring(f"{path}:1", tree)
        for node in ast.walk(tree):
            self._add_definition(path, node)

    def _add_docstring(self, place, node):
        first = (ast.get_docstring(node) or "").split(maxsplit=1)
        if first:
            self.riddles.count_place(place, first[0].lower().rstrip(",;:") in RIDDLES)

    def _add_definition(self, path, node):
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            return
        place = f"{path}:{node.lineno}: {node.name}"
        self._add_docstring(place, node)
        if isinstance(node, ast.ClassDef):
            self.classes.count_place(place, is_one_word(node.name))
            lines = node.end_lineno - node.lineno + 1
            self.long_classes.places += [f"{place} ({lines})"] if lines > LONG_CLASS else []
        elif not is_dunder(node.name):
            self.functions.count_place(place, is_one_word(node.name))

    def list_figures(self):
        """List the figures in the order of the table."""
        twice = [f"{n}: {', '.join(sorted(p))}" for n, p in self._homes.items() if len(p) > 1]
        self.twice.places = sorted(twice)
        return [
            self.functions,
            self.classes,
            self.twice,
            self.riddles,
            self.comments,
            self.long_classes,
            self.long_files,
            self.upward,
        ]


def figures_of(root):
    """Compute the figures of the package in this folder."""
    figures = Figures()
    for path in sorted(root.rglob("*.py")):
        figures.add_module(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
    return figures.list_figures()


def main(words):
    folders = [word for word in words if not word.startswith("-")]
    root = Path(folders[0]) if folders else Path(__file__).parents[1]
    for figure in figures_of(root / "mrx"):
        print(figure)
        if "--list" in words:
            print("".join(f"    {place}\n" for place in figure.places), end="")


if __name__ == "__main__":
    main(sys.argv[1:])

"""The rules of the house that can be read from the source: who imports whom, and a few bans."""

import ast
import fnmatch
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from mrx.cli import COMMANDS

ROOT = Path(__file__).parents[1]
TOP_LEVEL = {
    *("setup.cfg", "mrx", "tests", "examples", "README.md", "CHANGELOG.md"),
    *("pyproject.toml", "LICENSE", ".ci", ".gitignore"),
}
MOST_LINES = 400
MAX_TEST_NAME = 60  # characters, test_ included
TYPE_ALIAS = re.compile("_?[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*")
DEVICE = re.compile(r"(?<!opencv-)cuda")  # a device, not what others call their code
CHOOSER = (
    "pipeline/hardware.py",
    "choose_device",
)  # beside the options of cli, who may name a device
OPEN_TO_ALL = {"errors", "checks"}
SHARED_FILES = {"__init__", "base", "table"}  # names that modules of two folders may have
# Only imported where Triton is installed.
WITH_TRITON = {f"kernels/triton_{name}.py" for name in ("fields", "tvl1", "warp")}

# part → the parts of mrx that it may import: anywhere, and inside functions only
MAY_IMPORT = {
    "errors": (set(), set()),
    "version": (set(), set()),
    "checks": (set(), set()),
    "records": (set(), set()),
    "job": (set(), set()),
    "settings": (set(), set()),
    "manifest": ({"job", "settings"}, set()),
    "sources": ({"job"}, set()),
    "ops": (set(), set()),
    "kernels": ({"ops"}, set()),
    "backbones": ({"ops"}, set()),
    "methods": ({"ops", "kernels", "backbones"}, set()),
    "models": ({"methods", "backbones", "ops"}, set()),
    "render": ({"ops"}, set()),
    "windows": ({"records", "job"}, set()),
    "decode": ({"records", "sources", "job"}, set()),
    "shards": ({"records", "job", "manifest", "kernels", "settings", "version"}, set()),
    "pipeline": (
        {"decode", "job", "kernels", "methods", "records", "shards", "windows"},
        set(),
    ),
    "engines": ({"job", "manifest", "settings", "sources"}, {"pipeline"}),
    "visualize": (
        {"decode", "job", "methods", "pipeline", "records", "render", "shards", "sources"}
        | {"windows"},
        set(),
    ),
    "bench": (
        {"decode", "engines", "job", "kernels", "methods", "ops", "pipeline", "sources"}
        | {"settings", "version"},
        set(),
    ),
    "api": ({"engines", "job", "methods", "shards", "sources"}, set()),
    "cli": (
        {"bench", "engines", "job", "kernels", "manifest", "methods", "sources", "version"}
        | {"visualize"},
        {"decode", "pipeline", "shards"},
    ),
    "__init__": ({"version"}, {"api"}),
    "__main__": ({"cli"}, set()),
}
HEAVY = {
    *("torch", "numpy", "av", "cv2", "h5py", "numba", "triton", "hdf5plugin", "torchcodec"),
    *("click", "tqdm"),
}
# part → the heavy packages that it may import, again anywhere and inside functions only. Section 2
# of the style guide has fewer. Beyond it, kernels take numpy for numba's arrays, and cv2 in
# functions; windows numpy, for times; decode torch, and torchcodec in functions; shards torch and
# cv2, for encoding, and hdf5plugin in functions; pipeline av, cv2 and numpy, for their versions and
# threads; visualize torch. `records` takes numpy too, and `bench`, which is not listed there, torch
# and av. That windows may import `job` is beyond the guide, too.
MAY_LOAD = {
    "records": ({"torch", "numpy"}, set()),
    "ops": ({"torch"}, set()),
    "kernels": ({"torch", "numpy"}, {"cv2", "numba", "triton"}),
    "backbones": ({"torch"}, set()),
    "methods": ({"torch"}, set()),
    "models": ({"torch"}, set()),
    "render": ({"torch", "numpy", "cv2"}, set()),
    "windows": ({"torch", "numpy"}, set()),
    "decode": ({"av", "cv2", "numpy", "torch"}, {"torchcodec"}),
    "shards": ({"h5py", "cv2", "numpy", "torch"}, {"hdf5plugin"}),
    "pipeline": ({"torch", "cv2", "av", "numpy"}, set()),
    "visualize": ({"torch", "cv2", "av", "numpy"}, set()),
    "bench": ({"torch", "av"}, set()),
    "cli": ({"click", "tqdm"}, {"torch", "av", "cv2", "h5py", "numpy"}),
}


def part_of(path):
    """The folder or file of mrx that a module belongs to."""
    return Path(path).parts[0].removesuffix(".py")


def imports(tree):
    """(dotted name, whether it waits for a call or for a type checker) of every import."""

    def visit(node, waits):
        if isinstance(node, ast.Import):
            yield from ((alias.name, waits) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            whole = base == "mrx"  # `from mrx import keys` names a part, or something of mrx itself
            yield from (
                (f"mrx.{alias.name}" if whole else base, waits)
                for alias in (node.names if whole else node.names[:1])
            )
        functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, waits or types or isinstance(node, functions))

    return list(visit(tree, False))


def import_violations(path, source):
    part = part_of(path)
    if part not in MAY_IMPORT:
        yield f"{path}: no row in tests/test_house.py says what {part} may import"
        return
    ours, ours_waiting = MAY_IMPORT[part]
    heavy, heavy_waiting = MAY_LOAD.get(part, (set(), set()))
    heavy = heavy | ({"triton"} if path in WITH_TRITON else set())
    for name, waits in imports(ast.parse(source)):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if not top:
            yield f"{path}: relative import of {name}"
        elif top in HEAVY and top not in heavy | (heavy_waiting if waits else set()):
            yield f"{path}: imports {top}"
        elif top == "mrx" and target not in {"", part}:
            allowed = ours | (ours_waiting if waits else set())
            if target not in allowed | (OPEN_TO_ALL if part not in OPEN_TO_ALL else {"errors"}):
                yield f"{path}: imports mrx.{target}"


def docstrings(tree):
    """The constants that are documentation: a string that stands alone."""
    alone = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    return {id(value) for value in alone if isinstance(value, ast.Constant)}


def device_violations(path, source):
    tree = ast.parse(source)
    words = docstrings(tree)
    chooser = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and (path, node.name) == CHOOSER
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".cuda"):
            yield f"{path}:{node.lineno}: .cuda()"
        text = node.value if isinstance(node, ast.Constant) else ""
        named = isinstance(text, str) and DEVICE.search(text) and id(node) not in words | chooser
        if named and part_of(path) != "cli":
            yield f"{path}:{node.lineno}: names cuda"


def form_violations(path, source):
    tree = ast.parse(source)
    lines = source.count("\n")
    if lines > MOST_LINES:
        yield f"{path}: {lines} lines"
    if not ast.get_docstring(tree):
        yield f"{path}: no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            yield f"{path}:{node.lineno}: print"


def violations(path, source):
    """Return all violations in the source of a module at this path in mrx."""
    checks = (import_violations, device_violations, form_violations)
    return [found for check in checks for found in check(path, source)]


def shared_names(sources):
    """Classes, top-level functions and type aliases that two modules define, private ones too."""
    homes = defaultdict(list)
    for path, source in sources.items():
        for node in ast.parse(source).body:
            for name in defined_names(node):
                homes[name].append(path)
    return {name: paths for name, paths in homes.items() if len(paths) > 1}


def defined_names(node):
    """List the class, function or type alias that a top-level statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [] if is_hook(node.name) else [node.name]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        return [name for name in names if TYPE_ALIAS.fullmatch(name)]
    return []


def is_hook(name):
    """Python itself looks for such a name."""
    return name.startswith("__") and name.endswith("__")


def shared_files(paths):
    """Names that modules of two folders have."""
    homes = defaultdict(list)
    for path in paths:
        if Path(path).stem not in SHARED_FILES:
            homes[Path(path).name].append(path)
    return {name: found for name, found in homes.items() if len(found) > 1}


def long_test_names(path, source):
    """List the test functions of a module whose names are too long."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, kinds) and node.name.startswith("test_"):
            size = len(node.name)
            if size > MAX_TEST_NAME:
                yield f"{path}:{node.lineno}: {node.name} has {size} characters"


MODULES = sorted(p.relative_to(ROOT / "mrx").as_posix() for p in (ROOT / "mrx").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES)
def test_a_module_keeps_the_rules(path):
    assert violations(path, (ROOT / "mrx" / path).read_text(encoding="utf-8")) == []


def sources():
    return {path: (ROOT / "mrx" / path).read_text(encoding="utf-8") for path in MODULES}


def test_no_name_is_defined_for_two_things():
    assert shared_names(sources()) == {}


def test_no_two_folders_have_a_file_of_one_name():
    assert shared_files(MODULES) == {}


def test_test_names_are_sentences_of_60_characters():
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        found += long_test_names(path.relative_to(ROOT).as_posix(), source)
    assert found == []


def test_a_long_test_name_is_found():
    fits, long = "test_" + 55 * "a", "test_" + 56 * "a"
    functions = [f"def {fits}(): ...", f"class TestA:\n    async def {long}(self): ..."]
    others = f"def helper_{long}(): ..."
    found = long_test_names("tests/test_new.py", "\n".join([*functions, others]))
    assert list(found) == [f"tests/test_new.py:3: {long} has 61 characters"]


def test_a_name_in_two_modules_is_found():
    planted = {
        "ops/a.py": "def _draw(): ...\nclass Row: ...\ndef __getattr__(name): ...\nSIZE = 1",
        "ops/b.py": "class Row: ...\nclass Other:\n    def _draw(self): ...\nColor = int",
        "cli/c.py": "def _draw(): ...\ndef __getattr__(name): ...\nColor: Any = str\nSIZE = 2",
    }
    assert shared_names(planted) == {
        "_draw": ["ops/a.py", "cli/c.py"],
        "Row": ["ops/a.py", "ops/b.py"],
        "Color": ["ops/b.py", "cli/c.py"],
    }


def test_a_file_name_in_two_folders_is_found():
    planted = ["ops/a.py", "cli/a.py", "ops/base.py", "cli/base.py", "job.py"]
    assert shared_files(planted) == {"a.py": ["ops/a.py", "cli/a.py"]}


PLANTED = {
    "a stage that imports another stage": (
        "shards/new.py",
        "from mrx.decode import Video",
        "shards/new.py: imports mrx.decode",
    ),
    "the same by another way to write it": (
        "shards/new.py",
        "from mrx import job, decode",
        "shards/new.py: imports mrx.decode",
    ),
    "a stage that imports the pipeline, even late": (
        "decode/new.py",
        "def f():\n    import mrx.pipeline",
        "decode/new.py: imports mrx.pipeline",
    ),
    "an engine that imports the pipeline at once": (
        "engines/new.py",
        "from mrx.pipeline import Extraction",
        "engines/new.py: imports mrx.pipeline",
    ),
    "a heavy package in the parent": (
        "sources/new.py",
        "import numpy as np",
        "sources/new.py: imports numpy",
    ),
    "a heavy package above a command's body": (
        "cli/new.py",
        "import torch",
        "cli/new.py: imports torch",
    ),
    "a video reader in a method": ("methods/new.py", "import av", "methods/new.py: imports av"),
    "numba at once": ("kernels/new.py", "import numba", "kernels/new.py: imports numba"),
    "an import of the errors' importers": (
        "errors.py",
        "from mrx.job import Job",
        "errors.py: imports mrx.job",
    ),
    "a relative import": (
        "ops/new.py",
        "from . import stencils",
        "ops/new.py: relative import of .",
    ),
    "a folder without a row": (
        "extra/new.py",
        "",
        "extra/new.py: no row in tests/test_house.py says what extra may import",
    ),
    "a fixed device": ("ops/new.py", "def f(x):\n    x.cuda()", "ops/new.py:3: .cuda()"),
    "a fixed device by name": ("ops/new.py", "DEVICE = 'cuda:0'", "ops/new.py:2: names cuda"),
    "a named device beside its chooser": (
        "pipeline/new.py",
        "def choose(): return f'cuda:{1}'",
        "pipeline/new.py:2: names cuda",
    ),
    "a print": ("ops/new.py", "print(1)", "ops/new.py:2: print"),
    "a long file": ("ops/new.py", "\n" * MOST_LINES, "ops/new.py: 402 lines"),
}


@pytest.mark.parametrize(("path", "source", "message"), PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_violation_is_found(path, source, message):
    assert violations(path, f'"""A module."""\n{source}\n') == [message]


def test_a_missing_docstring_is_found():
    assert violations("ops/new.py", "import math\n") == ["ops/new.py: no docstring"]


def test_allowed_source_has_no_violations():
    late = "def run():\n    from mrx.pipeline import Extraction\n    import math\n"
    assert violations("engines/new.py", f'"""Says cuda."""\nfrom mrx.job import Job\n{late}') == []
    chooser = "def choose_device():\n    return 'cuda:0'\n"
    assert violations("pipeline/hardware.py", f'"""A module."""\nimport torch\n{chooser}') == []


def test_the_parent_process_loads_nothing_heavy():
    code = (
        "import sys, mrx.engines.run, mrx.methods, mrx.manifest\n"
        "from importlib import import_module\n"
        f"for name in {sorted(COMMANDS)}: import_module(f'mrx.cli.{{name}}_command')\n"
        f"print(sorted(({HEAVY!r} - {{'click', 'tqdm'}}) & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def tracked():
    """The names at the top of the repository, as git knows them, or else as they lie there."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        listed = ""
    if listed:
        return {name.partition("/")[0] for name in listed.split("\0") if name}
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    names = {p.name for p in ROOT.iterdir()} - {".git"}
    return {n for n in names if not any(fnmatch.fnmatch(n, pattern) for pattern in ignored)}


def test_the_top_level_holds_only_the_listed_names():
    assert tracked() <= TOP_LEVEL

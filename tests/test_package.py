"""The package as it is built: nothing is left out, no import points upward, everything public is explained."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rltool

ROOT = Path(__file__).resolve().parents[1]
# From the ground up; an import only ever points to a lower floor.
FLOORS = ["networks", "training", "data", "envs", "supervised", "agents", "gan", "adaptation", "attacks", "cli"]


def source_files() -> dict[str, Path]:
    """Every file of the package by its path in a wheel, through the links."""
    files = {}
    for folder, folders, names in os.walk(ROOT / "rltool", followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            if name.endswith((".py", ".typed")):
                path = Path(folder, name)
                files[path.relative_to(ROOT).as_posix()] = path
    return files


FILES = source_files()
MODULES = {name: ast.parse(path.read_text()) for name, path in FILES.items() if name.endswith(".py")}


def test_the_tree_is_seen_through_its_links():
    for name in ("agents", "envs"):
        assert (ROOT / "rltool" / name).is_symlink()
        assert os.readlink(ROOT / "rltool" / name) == f"../{name}"
        assert f"rltool/{name}/__init__.py" in FILES
    assert "rltool/py.typed" in FILES


def test_every_folder_with_modules_is_a_package():
    folders = {str(Path(name).parent) for name in MODULES}
    assert {folder for folder in folders if f"{folder}/__init__.py" not in FILES} == set()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the tree, without an isolated environment and without the network."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("rltool", "agents", "envs", "attacks"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    script = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", script, str(out)], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_every_module(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        packed = {name for name in names if name.startswith("rltool/")}
        assert packed == set(FILES)
        for name, path in FILES.items():
            assert archive.read(name) == path.read_bytes()
    assert {name.split("/")[0] for name in names} == {"rltool", f"rltool-{rltool.__version__}.dist-info"}


def test_the_wheels_metadata(wheel):
    assert wheel.name == f"rltool-{rltool.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        info = f"rltool-{rltool.__version__}.dist-info"
        assert "rltool = rltool.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()
        assert "Requires-Python: >=3.11" in archive.read(f"{info}/METADATA").decode()
        assert f"{info}/licenses/LICENSE" in archive.namelist()


def test_the_wheel_works_where_the_tree_is_not(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    script = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import rltool, rltool.agents.ppo; "
        "print(rltool.__file__); from rltool.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "site"), "list", "methods"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith(str(tmp_path / "site")), done.stderr
    assert "\nppo\t" in done.stdout


def imports(tree: ast.Module) -> set[str]:
    """Names of the modules that a module imports anywhere, but for type checking."""

    def walk(node: ast.AST) -> set[str]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return set().union(*map(walk, node.orelse))
        if isinstance(node, ast.Import):
            return {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            # `from rltool import agents` imports rltool.agents.
            return {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
        return set().union(*map(walk, ast.iter_child_nodes(node)))

    return walk(tree)


def floor(module: str) -> int:
    """-1 for the basement: errors, registry and what else stands at the top of the package."""
    parts = module.replace("/", ".").removesuffix(".py").split(".")
    if parts[1:] == ["__main__"]:  # It is a command line, too.
        return FLOORS.index("cli")
    return FLOORS.index(parts[1]) if len(parts) > 1 and parts[1] in FLOORS else -1


def test_the_imports_that_are_looked_at_are_those_there_are():
    tree = ast.parse(
        "from typing import TYPE_CHECKING\nimport a.b\nif TYPE_CHECKING:\n    import hidden\nelse:\n    import shown\n"
        "def f():\n    from rltool.cli import main\n"
    )
    assert {"a.b", "shown", "rltool.cli", "rltool.cli.main"} <= imports(tree)
    assert "hidden" not in imports(tree)


def test_every_package_has_its_floor():
    packages = {name.split("/")[1] for name in MODULES if name.count("/") > 1}
    assert packages <= set(FLOORS)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_import_points_upward(name):
    here = floor(name)
    inner = [module for module in imports(MODULES[name]) if module.startswith("rltool.")]
    upward = [module for module in inner if floor(module) > here]
    assert upward == [], f"{name} stands on floor {here}"


def test_nobody_imports_the_folders_at_the_top_by_their_bare_names():
    for name, tree in MODULES.items():
        bare = {module.split(".")[0] for module in imports(tree)} & {"agents", "envs", "attacks"}
        assert not bare, name


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.endswith("/config.py")))
def test_configs_are_free_of_torch(name):
    assert not any(module.split(".")[0] in ("torch", "gymnasium", "numpy") for module in imports(MODULES[name]))


def test_everything_public_is_explained():
    missing = []
    for name, tree in MODULES.items():
        public = [
            node
            for node in tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
        ]
        missing += [f"{name}: {getattr(node, 'name', '')}" for node in (tree, *public) if not ast.get_docstring(node)]
    assert missing == []


# Messages between a program and the processes it has started go through pipes of their own, never through a file.
BETWEEN_PROCESSES = {"rltool/envs/workers.py": {"pickle.dumps", "pickle.loads"}}
PICKLES = {"pickle", "_pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}


def unsafe_pickles(tree: ast.Module) -> list[str]:
    """Uses of pickle but for the one that runs nothing: a subclass of Unpickler that looks no name up."""
    modules = {module.split(".")[0] for module in imports(tree)} & PICKLES
    if not modules:
        return []
    if modules != {"pickle"} or any(isinstance(n, ast.ImportFrom) and n.module == "pickle" for n in ast.walk(tree)):
        return sorted(modules)
    tame = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and "pickle.Unpickler" in map(ast.unparse, node.bases):
            methods = {method.name: ast.unparse(method) for method in node.body if isinstance(method, ast.FunctionDef)}
            lookup = methods.get("find_class", "super()")
            if not any(word in lookup for word in ("super()", "pickle", "import", "getattr", "sys.modules")):
                tame |= set(node.bases)
    aliases = [a.asname for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names if a.name == "pickle"]
    uses = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n).startswith("pickle.")]
    return [ast.unparse(use) for use in uses if use not in tame] + [name for name in aliases if name]


@pytest.mark.parametrize(
    ("source", "unsafe"),
    [
        ("import json", False),
        ("import pickle\npickle.load(f)", True),
        ("import pickle\npickle.Unpickler(f).load()", True),
        ("import pickle as p\np.load(f)", True),
        ("from pickle import load", True),
        ("import joblib", True),
        ("import pickle\nclass U(pickle.Unpickler):\n    pass", True),
        ("import pickle\nclass U(pickle.Unpickler):\n    def find_class(self, m, n):\n        return Record", False),
        (
            "import pickle\nclass U(pickle.Unpickler):\n    def find_class(self, m, n):\n"
            "        return super().find_class(m, n)",
            True,
        ),
    ],
)
def test_what_counts_as_an_unsafe_pickle(source, unsafe):
    assert bool(unsafe_pickles(ast.parse(source))) == unsafe


def test_nothing_is_unpickled_or_evaluated():
    """A run from a stranger is safe: nothing here runs pickles or text."""
    for name, tree in MODULES.items():
        assert set(unsafe_pickles(tree)) <= BETWEEN_PROCESSES.get(name, set()), name
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "compile", "__import__"), (name, node.lineno)
                if called == "torch.load":
                    safe = [ast.unparse(k.value) for k in node.keywords if k.arg == "weights_only"]
                    assert safe == ["True"], (name, node.lineno)
                if called in ("np.load", "numpy.load"):
                    assert not any(k.arg == "allow_pickle" for k in node.keywords), (name, node.lineno)

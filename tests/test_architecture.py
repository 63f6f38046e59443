"""The house: imports go down the floors, starting is quick, the top level is what the README says."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "stgraph"
FLOORS = {
    "errors": 0, "units": 0, "io": 0, "version": 0, "graph": 0,
    "roads": 1, "ops": 1,
    "sources": 2, "windows": 2, "partition": 2, "datasets": 2,
    "nn": 3,
    "models": 4, "objectives": 4,
    "train": 5, "evaluate": 5,
    "report": 6, "bench": 6,
    "facade": 7, "build": 7, "cli": 7,
}


def _imports(path: Path) -> set[str]:
    """First-level stgraph modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "stgraph":
            parts = node.module.split(".")
            found.update([parts[1]] if len(parts) > 1 else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            found.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("stgraph."))
    return found


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_module_has_a_floor() -> None:
    names = {_name(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert names == set(FLOORS)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_goes_up(path: Path) -> None:
    own = _name(path)
    if own in ("__init__", "__main__"):
        return  # the package itself only names where things are
    ups = {name for name in _imports(path) if FLOORS[name] > FLOORS[own]}
    assert not ups, f"{path.relative_to(ROOT)} on floor {FLOORS[own]} imports {ups}"


def test_partition_and_windows_have_no_way_back_to_models() -> None:
    """The walk above can fail: an import that goes up is seen."""
    assert "models" in _imports(PACKAGE / "train" / "__init__.py") | _imports(PACKAGE / "evaluate" / "evaluate.py")
    assert FLOORS["models"] > FLOORS["windows"]


def _modules_after(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", f"{code}; import sys, json; print(json.dumps(list(sys.modules)))"],
                          capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(done.stdout)}


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = _modules_after("import stgraph")
    assert not loaded & {"torch", "dgl", "osmnx", "lightning", "pandas", "geopandas", "zarr", "networkx"}


def test_importing_the_graph_brings_no_optional_package() -> None:
    loaded = _modules_after("import stgraph; stgraph.DynamicHeteroGraph; stgraph.City")
    assert not loaded & {"dgl", "osmnx", "lightning", "pytorch_lightning", "geopandas", "playwright"}


def test_help_imports_nothing_heavy() -> None:
    loaded = _modules_after("import stgraph.cli.main")
    assert not loaded & {"torch", "numpy", "pandas", "lightning", "zarr", "geopandas"}


def test_a_model_is_imported_only_when_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c",
                           "import stgraph.models, sys; stgraph.models.model_class('stid'); "
                           "print('stgraph.models.patchstg' in sys.modules, 'stgraph.models.stid' in sys.modules)"],
                          capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_the_top_level_is_the_one_of_the_design() -> None:
    for name in ("pyproject.toml", "README.md", "Makefile", ".ci/run", "LICENSE", "CHANGELOG.md", "stgraph", "kernels",
                 "datasets", "tests", "benchmarks", "docs"):
        assert (ROOT / name).exists(), name


def test_every_dependency_has_a_reason() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    reasons = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    for requirement in wanted:
        name = requirement.split(">")[0].split("[")[0]
        if name != project["name"]:
            assert f"| `{name}` |" in reasons, f"{name} has no line in docs/dependencies.md"
            assert ">=" in requirement, f"{name} has no lower bound"
            assert "<" in requirement, f"{name} has no upper bound"

"""Which kernels run, and that nobody is left in the dark about why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from stgraph.ops import loader

ROOT = Path(__file__).parents[2]
SMALL = 'extern "C" __attribute__((visibility("default"))) int stgraph_seven() { return 7; }\n'
ASK = """
import torch, warnings
from stgraph import ops
with warnings.catch_warnings(record=True) as heard:
    warnings.simplefilter("always")
    found = ops.backend()
print(found.name, "|", found.reason, "|", [str(w.message) for w in heard if w.category is ops.KernelWarning])
out = ops.spmm(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]), torch.tensor([[1.0], [10.0]]))
print(out.flatten().tolist())
"""


def ask(code: str = ASK, where: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, started in ``where``: Python looks there first."""
    given = {key: value for key, value in os.environ.items() if key not in ("CXX", "STGRAPH_KERNELS")}
    return subprocess.run([sys.executable, "-c", code], env={**given, "PYTHONPATH": str(ROOT), **environment},
                          capture_output=True, text=True, check=False, cwd=where)


def broken_compiler(folder: Path) -> Path:
    made = folder / "broken-compiler"
    made.write_text("#!/bin/sh\necho 'the letter e is missing' >&2\nexit 3\n")
    made.chmod(0o755)
    return made


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources that compile in an instant, and an empty cache."""
    folder = tmp_path / "kernels"
    (folder / "cpu").mkdir(parents=True)
    (folder / "cpu" / "spmm.cpp").write_text(SMALL)
    monkeypatch.setattr(loader, "sources_folder", lambda: folder)
    monkeypatch.setenv("STGRAPH_CACHE", str(tmp_path / "cache"))
    if loader.compiler() is None:
        pytest.skip("no C++ compiler at hand")
    return folder


def test_torch_is_chosen_by_name() -> None:
    done = ask(STGRAPH_KERNELS="torch")
    assert done.stdout.splitlines() == ["torch | STGRAPH_KERNELS=torch | []", "[11.0, 10.0]"]


def test_an_unknown_choice_is_refused() -> None:
    done = ask(STGRAPH_KERNELS="fastest")
    assert done.returncode
    assert "STGRAPH_KERNELS" in done.stderr
    assert "auto, require or torch" in done.stderr


def test_without_a_compiler(tmp_path: Path) -> None:
    empty = {"PATH": str(tmp_path), "STGRAPH_CACHE": str(tmp_path)}
    done = ask(**empty)
    assert done.stdout.startswith("torch | ")
    assert "there is no C++ compiler" in done.stdout
    assert "[11.0, 10.0]" in done.stdout
    done = ask(STGRAPH_KERNELS="require", **empty)
    assert done.returncode
    assert "there is no C++ compiler" in done.stderr


def test_a_broken_compiler_is_heard(tmp_path: Path) -> None:
    broken = {"CXX": str(broken_compiler(tmp_path)), "STGRAPH_CACHE": str(tmp_path)}
    done = ask(**broken)
    assert done.stdout.startswith("torch | ")
    assert "the letter e is missing" in done.stdout.split("|")[2]
    assert "[11.0, 10.0]" in done.stdout
    done = ask(STGRAPH_KERNELS="require", **broken)
    assert done.returncode
    assert "the letter e is missing" in done.stderr
    assert not list(tmp_path.rglob("*.so"))
    assert "cannot be had" in ask(CXX=str(tmp_path / "nowhere"), STGRAPH_CACHE=str(tmp_path)).stdout


def test_what_was_compiled_is_used_again(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = loader._library()[0]
    monkeypatch.setattr(loader, "compile_library", None)  # a second compilation would fail
    assert loader._library()[0] == first


def test_other_sources_are_compiled_anew(small: Path) -> None:
    first = loader._library()[0]
    (small / "cpu" / "spmm.cpp").write_text(SMALL.replace("7", "8"))
    assert loader._library()[0] != first
    assert len(list(first.parent.glob("*.so"))) == 2


def test_two_processes_compile_at_once(small: Path, tmp_path: Path) -> None:
    code = f"""
import ctypes, pathlib
from stgraph.ops import loader
loader.sources_folder = lambda: pathlib.Path({str(small)!r})
print(ctypes.CDLL(str(loader._library()[0])).stgraph_seven())
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STGRAPH_CACHE": str(tmp_path / "cache")}
    running = [subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
               for _ in range(2)]
    assert [process.communicate()[0].strip() for process in running] == ["7", "7"]
    left = list((tmp_path / "cache" / "kernels").iterdir())
    assert len(left) == 1
    assert left[0].suffix == ".so"


def test_the_kernels_are_found_in_the_source_tree() -> None:
    assert loader.sources_folder() == ROOT / "kernels"


def test_the_package_runs_from_its_source_tree(tmp_path: Path) -> None:
    """Not installed, started elsewhere, nothing compiled yet: the kernels beside the package are found and compiled."""
    if loader.compiler() is None:
        pytest.skip("no C++ compiler at hand")
    tree = source_tree(tmp_path)
    done = ask(where=tmp_path, PYTHONPATH=str(tree), STGRAPH_CACHE=str(tmp_path / "cache"))
    assert done.stdout.startswith("native | compiled from kernels/ | []"), done.stdout + done.stderr
    assert "[11.0, 10.0]" in done.stdout
    assert len(list((tmp_path / "cache" / "kernels").glob("*.so"))) == 1


# ---------------------------------------------------------------- ahead of time
def source_tree(folder: Path) -> Path:
    """All that an installation needs, with kernels that compile in an instant: operators run as PyTorch's own."""
    tree = folder / "tree"
    for name in ("stgraph", "datasets"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, tree / name)
    (tree / "kernels" / "cpu").mkdir(parents=True)
    (tree / "kernels" / "cpu" / "spmm.cpp").write_text(SMALL)
    return tree


def make_wheel(tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {key: value for key, value in os.environ.items() if key != "CXX"}
    return subprocess.run([sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", "made"], cwd=tree,
                          env={**given, **environment}, capture_output=True, text=True, check=False)


def test_an_installation_may_hold_the_library(tmp_path: Path) -> None:
    if loader.compiler() is None:
        pytest.skip("no C++ compiler at hand")
    tree = source_tree(tmp_path)
    done = make_wheel(tree, STGRAPH_BUILD_KERNELS="1")
    assert done.returncode == 0, done.stderr
    [wheel] = (tree / "made").iterdir()
    assert "-py3-none-linux_" in wheel.name, "one for this platform, and for every Python"
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    [library] = (tmp_path / "installed" / "stgraph" / "ops").glob("_kernels.*")
    assert library.name in (loader.built_name(False), loader.built_name(True))
    assert library.name.startswith("_kernels.torch2.10."), "it serves this torch and later ones"
    shutil.rmtree(tree)
    done = ask(where=tmp_path, PYTHONPATH=str(tmp_path / "installed"), STGRAPH_KERNELS="require", PATH=str(tmp_path))
    assert done.stdout.splitlines() == ["native | built when the package was installed | []", "[11.0, 10.0]"]


def test_an_installation_without_a_library_holds_the_sources(tmp_path: Path) -> None:
    tree = source_tree(tmp_path)
    done = make_wheel(tree, STGRAPH_BUILD_KERNELS="")
    assert done.returncode == 0, done.stderr
    [wheel] = (tree / "made").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "stgraph/ops/kernels/cpu/spmm.cpp" in names
    assert not [name for name in names if name.endswith(".so")]


def test_a_library_that_was_asked_for_and_cannot_be_built_ends_the_installation(tmp_path: Path) -> None:
    tree = source_tree(tmp_path)
    done = make_wheel(tree, STGRAPH_BUILD_KERNELS="1", CXX=str(broken_compiler(tmp_path)))
    assert done.returncode
    assert "the letter e is missing" in done.stderr
    done = make_wheel(tree, STGRAPH_BUILD_KERNELS="1", CXX=str(tmp_path / "nowhere"))
    assert done.returncode
    assert "STGRAPH_BUILD_KERNELS=1" in done.stderr
    assert not (tree / "made").exists()

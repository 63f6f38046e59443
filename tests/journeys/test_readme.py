"""Nothing in the README that does not run: its commands and its Python are run, with a budget of steps for minutes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def _quick(text: str) -> str:
    """The same words with a small step budget in place of minutes."""
    return re.sub(r"minutes=[\d.]+", "steps=20", re.sub(r"--minutes [\d.]+", "--steps 20", text))


@pytest.mark.journey
def test_the_commands_and_the_python_of_the_readme_run(shared_data: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                                "D": str(shared_data), "CUDA_VISIBLE_DEVICES": ""}
    ran = 0
    for block in _blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if not words or words[0] != "stgraph" or words[1] == "demo":  # make and demo have a test of their own
                continue
            done = subprocess.run(_quick(line), shell=True, cwd=tmp_path, env=environment, capture_output=True,
                                  text=True, check=False)
            assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
            ran += 1
    assert ran >= 4
    for block in _blocks("python"):
        done = subprocess.run([sys.executable, "-c", _quick(block)], cwd=tmp_path, env=environment,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stderr[-2000:]}"
        ran += 1
    assert ran >= 5


def test_the_readme_names_only_files_that_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target

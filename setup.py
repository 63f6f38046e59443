"""The package list, and the kernels: their sources go into the package, and on request a library built from them.

``STGRAPH_BUILD_KERNELS=1 pip install --no-build-isolation .`` compiles the kernels ahead of time (torch and a C++20
compiler must be at hand), which makes the package one for this platform. Otherwise they are compiled at first use.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
AHEAD = os.environ.get("STGRAPH_BUILD_KERNELS", "0") not in ("", "0")


class BuildWithKernels(build_py):
    """Copies ``kernels/`` beside ``stgraph/ops``; compiles it where asked to."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # the source tree is used as it is
        target = Path(self.build_lib) / "stgraph" / "ops"
        for folder in ("cpu", "cuda"):
            if (HERE / "kernels" / folder).is_dir():
                shutil.copytree(HERE / "kernels" / folder, target / "kernels" / folder, dirs_exist_ok=True)
        for source in (HERE / "kernels").glob("*.cpp"):
            shutil.copy2(source, target / "kernels")
        if AHEAD:
            self.compile(target)

    def compile(self, target: Path) -> None:
        """Build the library into the package."""
        sys.path.insert(0, str(HERE))
        from stgraph.ops import loader

        command, nvcc = loader.compiler(), shutil.which("nvcc")
        if command is None:
            raise SystemExit("STGRAPH_BUILD_KERNELS=1: there is no C++ compiler")
        with tempfile.TemporaryDirectory() as work:
            made = loader.compile_library(HERE / "kernels", Path(work), command, nvcc)
            shutil.copy2(made, target / "_kernels.so")
        if nvcc is not None:
            (target / "_kernels.cuda").write_text("")


class WithLibrary(Distribution):
    """A package that holds a compiled library is one for this platform."""

    def has_ext_modules(self) -> bool:
        return AHEAD or super().has_ext_modules()


setup(packages=[*find_packages(include=["stgraph", "stgraph.*"]), "stgraph_datasets"],
      cmdclass={"build_py": BuildWithKernels}, distclass=WithLibrary)

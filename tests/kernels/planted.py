"""Runs tests of the operators on CPU kernels with one planted bug at a time.

``python planted.py LIBRARY FILE,... NUMBER:TESTS ...`` loads everything that the test files need once and then forks:
each child turns on the bug of that number (0 or below: none) and runs the tests, words as pytest takes them with ``|``
between. One line per child: the number, the exit code of pytest, and what it said last.
"""

from __future__ import annotations

import ctypes
import io
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from stgraph.ops import loader

ROOT = Path(__file__).parents[2]
OPTIONS = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header"]
SECONDS = 120  # a bug may also lead to a loop without an end


def run(words: list[str]) -> tuple[int, str]:
    """The exit code of pytest, and all it said."""
    heard = io.StringIO()
    with redirect_stdout(heard), redirect_stderr(heard):
        code = int(pytest.main([*words, *OPTIONS]))
    return code, heard.getvalue()


def child(library: ctypes.CDLL, number: int, words: list[str]) -> None:
    """Never returns."""
    signal.alarm(SECONDS)
    library.stgraph_plant(max(number, 0))
    code, told = run(words)
    lines = [line for line in told.splitlines() if line.strip()]
    last = [line for line in lines if line.startswith(("FAILED", "ERROR"))] or lines[-1:]
    print(f"{number}\t{code}\t{' '.join(last)[:300]}", flush=True)
    os._exit(0)


if __name__ == "__main__":
    built = Path(sys.argv[1])
    loader._library = lambda: (built, False, "kernels with planted bugs")  # type: ignore[assignment]
    os.chdir(ROOT)
    found, said = run([*sys.argv[2].split(","), "--collect-only"])  # imports what the tests import
    assert found == 0, said[-2000:]
    for given in sys.argv[3:]:
        bug, tests = given.split(":", 1)
        if os.fork() == 0:
            child(ctypes.CDLL(str(built)), int(bug), tests.split("|"))
        status = os.wait()[1]
        if os.WIFSIGNALED(status):
            print(f"{bug}\t{-os.WTERMSIG(status)}\tended by a signal", flush=True)

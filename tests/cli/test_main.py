"""The command line as a whole: exit codes, one JSON object, help with an example."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.main import get_command

from stgraph.cli.main import app


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "stgraph", *words], capture_output=True, text=True, check=False)


def _verbs() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        children = getattr(command, "commands", None)
        found += [(name, child) for child in children] if children else [(name,)]
    return found


@pytest.mark.parametrize("verb", _verbs(), ids=" ".join)
def test_every_verb_has_help_with_an_example(verb: tuple[str, ...]) -> None:
    command = get_command(app)
    for name in verb:
        command = command.commands[name]  # type: ignore[attr-defined]
    assert f"stgraph {' '.join(verb)}" in (command.help or "") + (command.epilog or ""), "no example"
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, f"{parameter.name} has no help"  # type: ignore[attr-defined]


def test_what_the_user_can_mend_exits_with_two_and_says_how(tmp_path) -> None:  # type: ignore[no-untyped-def]
    done = _run("evaluate", "--model", str(tmp_path / "none"), "--data", str(tmp_path / "none.stg"), "--json")
    assert done.returncode == 2
    assert "Remedy" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["error"]["remedy"]


def test_an_unknown_option_exits_with_two() -> None:
    done = _run("train", "--nonsense")
    assert done.returncode == 2
    assert "--nonsense" in done.stderr


def test_version() -> None:
    done = _run("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "stgraph")

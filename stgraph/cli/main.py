"""The entry point: mounts the verbs and turns errors into messages and exit codes."""

from __future__ import annotations

import copy
import os
import sys
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from stgraph.cli import bench, build, data, train
from stgraph.cli.demo import demo
from stgraph.cli.edit import edit
from stgraph.cli.impute import impute
from stgraph.cli.info import info
from stgraph.cli.score import evaluate, forecast, report
from stgraph.cli.shared import print_json
from stgraph.errors import InputError
from stgraph.version import __version__

app = typer.Typer(name="stgraph", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  rich_markup_mode="markdown", context_settings={"help_option_names": ["-h", "--help"]})
app.add_typer(build.app, name="build")
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.command("demo")(demo)
app.command("info")(info)
app.command("edit")(edit)
app.command("train")(train.train)
app.command("evaluate")(evaluate)
app.command("forecast")(forecast)
app.command("impute")(impute)
app.command("report")(report)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"stgraph {__version__}")
        raise typer.Exit


@app.callback()
def root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                               help="Print the version and end.")] = False) -> None:
    """City data in, one dynamic graph, forecasts one can trust.

    First time here: **stgraph demo** runs the whole chain on a simulated city.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Exit code 0: done; 2: something the user can mend; 130: interrupted; 1: our fault."""
    words = sys.argv[1:] if arguments is None else arguments
    # Threads that wait for each other spin by default; beside another busy program that made a training step 9x slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        code = _asked(words)(words, standalone_mode=False)
    except InputError as error:
        code = _refuse(str(error), error.as_dict(), words)
    except TyperException as error:  # an unknown option, a value of another type
        context = getattr(error, "ctx", None)
        message, hint = error.format_message(), context.command_path if context else "stgraph"
        code = _refuse(f"{message}\nRemedy: see {hint} --help.",
                       {"message": message, "remedy": f"see {hint} --help"}, words)
    except (KeyboardInterrupt, typer.Abort):
        print("Interrupted.", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away; nothing to add
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _asked(words: list[str]) -> typer.Typer:
    """The command line with the asked verb alone: making the options of all others takes longer than some verbs."""
    for group in app.registered_groups:
        if words[:1] != [group.name] or group.typer_instance is None:
            continue
        inside = copy.copy(group.typer_instance)
        inside.registered_commands = _named(inside.registered_commands, words[1:2])
        if inside.registered_commands and inside.registered_callback:
            lean, one = copy.copy(app), copy.copy(group)
            one.typer_instance, lean.registered_groups, lean.registered_commands = inside, [one], []
            return lean
    commands = _named(app.registered_commands, words[:1])
    if not commands:
        return app
    lean = copy.copy(app)
    lean.registered_commands, lean.registered_groups = commands, []
    return lean


def _named(commands: list[Any], names: list[str]) -> list[Any]:
    return [one for one in commands if (one.name or one.callback.__name__.replace("_", "-")) in names]


def _refuse(text: str, parts: dict[str, str | None], words: list[str]) -> int:
    print(f"stgraph: {text}", file=sys.stderr)
    if "--json" in words:
        print_json({"error": parts})
    return 2


if __name__ == "__main__":
    main()

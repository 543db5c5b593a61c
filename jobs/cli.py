"""The command group: where errors become messages and exit codes.

0 = all done, 1 = finished with failures (each named on stderr), 2 = wrong usage, 130 = interrupted.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import pkgutil
import sys
from collections.abc import Sequence
from typing import Any

import click

import pipeline.kinds
from jobs.console import printable
from pipeline.base.errors import CollapseError, UsageError, unknown_name
from pipeline.base.plugins import load_plugins, plugins_named
from pipeline.base.versions import __version__

# Threads of a parallel region that wait for the slowest must sleep, not spin: on a machine that does anything
# else, spinning makes training several times slower. OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# transformers imports torchao wherever it is installed (the tests need it); hide its warning about its own compiled
# extensions, which nothing here uses.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
# Ray's own messages in a job's log (a node was lost) come without escape codes, like all other lines.
os.environ.setdefault("RAY_COLOR_PREFIX", "0")

COMMANDS = (
    "run", "audit", "reduce", "report", "status", "phases", "compare", "fork", "pretrain", "monitor", "suites",
    "benchmark",
)  # fmt: skip
"""Each command is ``command`` in the module of its name, imported when it is called, so that --help is quick."""
WITH_COMMAND = {"audit_work", "fork_work"}
"""The files of ``pipeline.kinds`` whose command is one of these."""


class Group(click.Group):
    """A command group that imports a command when it is called and turns the library's errors into exit codes."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **named: Any) -> Any:
        """Run click's ``main`` in UTF-8 mode, so that file names in any alphabet work on any terminal."""
        if args is None:
            _use_utf8()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(args, *rest, **named)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Load the plug-ins, then call click's ``make_context``."""
        try:
            load_plugins()
        except UsageError as error:
            raise _Ended(str(error), 2) from error
        return super().make_context(info_name, args, parent, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *_added()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return _added().get(cmd_name)
        command: click.Command = importlib.import_module(f"jobs.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = COMMANDS if args and args[0] in COMMANDS else self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            raise click.UsageError(printable(str(unknown_name("command", args[0], known))))
        for given in args:
            if any("\ud800" <= letter <= "\udfff" for letter in given):
                raise _Ended(f"{given!r} is not UTF-8 text: rename the file or folder", 2)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            raise _Ended(str(error), 2) from error
        except CollapseError as error:
            raise _Ended(str(error), 1) from error
        except KeyboardInterrupt:
            raise _Ended("interrupted; the same command resumes where this one stopped", 130) from None


class _Ended(click.ClickException):
    """An error whose message is shown, without what a terminal would act on."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]

    def format_message(self) -> str:
        return printable(self.message)


def _added() -> dict[str, click.Command]:
    """The commands of further kinds of work, which plug-ins and files of ``pipeline.kinds`` add."""
    files = {module.name for module in pkgutil.iter_modules(pipeline.kinds.__path__)}
    if not plugins_named() and files <= WITH_COMMAND:  # there are none: --help stays quick
        return {}
    from jobs.added_commands import added_kinds, command_of

    return {name: command_of(work) for name, work in added_kinds().items() if name not in COMMANDS}


def _use_utf8() -> None:
    """Restart Python in UTF-8 mode if the locale names no encoding: it could not read file names beyond ASCII.

    Output stays in the locale's encoding, with escapes for other characters.
    """
    if sys.getfilesystemencoding().lower() != "utf-8" and not sys.flags.utf8_mode:
        settings = {"PYTHONUTF8": "1", "PYTHONIOENCODING": f"{sys.stdout.encoding}:backslashreplace"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **settings})  # noqa: S606


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="int4-collapse")
def main() -> None:
    """When does training ruin a model for 4-bit deployment, and what keeps it deployable?

    Start with `int4-collapse run tiny --out outputs/demo`, or give `run` a folder of your own checkpoints.
    """

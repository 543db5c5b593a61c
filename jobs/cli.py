"""The command group: where errors become messages and exit codes.

0 = all done, 1 = finished with failures (each named on stderr), 2 = wrong usage, 130 = interrupted.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

import click

from pipeline import __version__
from pipeline.errors import CollapseError, UsageError, unknown_name

# Threads of a parallel region that wait for the slowest must sleep, not spin: on a machine that does anything
# else, spinning makes training several times slower. OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# transformers imports torchao wherever it is installed (the tests need it); what it says of its own compiled parts,
# which nothing here uses, is no warning to whoever runs a command.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
# What Ray itself says in a job's log (a node was lost) comes without escape codes, as everything else there.
os.environ.setdefault("RAY_COLOR_PREFIX", "0")

COMMANDS = (
    "run", "audit", "reduce", "report", "status", "phases", "compare", "fork", "pretrain", "suites", "benchmark",
)  # fmt: skip
"""Each is ``command`` in the module of its name; imported when it is called, so that --help is quick."""


class Group(click.Group):
    """Loads commands when they are asked for, and turns the library's errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"jobs.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(str(unknown_name("command", args[0], COMMANDS)))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            raise _Misuse(str(error)) from error
        except CollapseError as error:
            raise _Failure(str(error)) from error
        except KeyboardInterrupt:
            raise _Interrupted("interrupted; the same command resumes where this one stopped") from None


class _Failure(click.ClickException):
    exit_code = 1


class _Misuse(click.ClickException):
    exit_code = 2


class _Interrupted(click.ClickException):
    exit_code = 130


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="int4-collapse")
def main() -> None:
    """When does training ruin a model for 4-bit deployment, and what keeps it deployable?

    Start with `int4-collapse run tiny --out outputs/demo`, or give `run` a folder of your own checkpoints.
    """

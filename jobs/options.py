"""Options that several commands share, and options made of the fields of a dataclass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import click
from click.types import FloatParamType

from pipeline.base.errors import UsageError
from pipeline.base.option_fields import Option
from pipeline.runs.audit_options import AuditOptions, DecisionOptions

F = TypeVar("F", bound=Callable[..., Any])


def stack(*options: Callable[[F], F]) -> Callable[[F], F]:
    """One decorator of several, in the order of the help text."""

    def decorate(command: F) -> F:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate


class Steps(click.ParamType):
    """Steps, as in ``0,1000``."""

    name = "steps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return parse_steps(value, param.opts[0] if param else "--steps") if isinstance(value, str) else value


class FiniteRange(click.FloatRange):
    """Numbers between limits; click's own range lets NaN through every limit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return _finite(self, super().convert(value, param, ctx), param, ctx)


class FiniteNumber(FloatParamType):
    """Numbers without limits; a range without limits would show them as None in --help."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return _finite(self, super().convert(value, param, ctx), param, ctx)


def _finite(
    kind: click.ParamType, number: Any, param: click.Parameter | None, ctx: click.Context | None
) -> Any:
    if not math.isfinite(number):
        kind.fail(f"{number} is not a finite number", param, ctx)
    return number


def options_of(kind: type, *names: str) -> Callable[[F], F]:
    """Options for the fields ``names`` of the dataclass ``kind``; without names for all that are options."""
    hints = get_type_hints(kind, localns={"Suite": object})
    found = {field.name: field for field in fields(kind) if "option" in field.metadata}
    return stack(*(_option(found[name], hints[name]) for name in names or found))


def _option(field: Field[Any], hint: Any) -> Callable[[F], F]:
    shown: Option = field.metadata["option"]
    name = shown.name or f"--{field.name.replace('_', '-')}"
    inner = [each for each in get_args(hint) if each not in (NoneType, Ellipsis)]
    kind = hint if get_origin(hint) is tuple or not inner else inner[0]
    settings: dict[str, Any] = {"type": _type(shown, kind), "metavar": shown.metavar}
    if kind is bool:
        name = name if field.default is False else f"{name}/--no-{name.removeprefix('--')}"
        settings = {"is_flag": True, "default": field.default}
    elif kind == tuple[str, ...]:
        settings["multiple"] = True
        settings |= {} if shown.bare is None else {"is_flag": False, "flag_value": shown.bare}
    if field.default not in (MISSING, None, False, ()):
        settings |= {"default": field.default, "show_default": True}
    told = shown.help if isinstance(shown.help, str) else shown.help()
    return click.option(name, field.name, required=field.default is MISSING, help=told, **settings)


def _type(shown: Option, kind: Any) -> Any:
    if shown.choices:
        return click.Choice(shown.choices)
    if get_origin(kind) is tuple:
        return Steps() if int in get_args(kind) else str
    if shown.least is None:
        return FiniteNumber() if kind is float else kind
    limits: dict[str, Any] = {"min": shown.least, "min_open": shown.open}
    limits |= {} if shown.below is None else {"max": shown.below, "max_open": True}
    return click.IntRange(**limits) if kind is int else FiniteRange(**limits)


out_option = options_of(AuditOptions, "out")
selection_options = options_of(AuditOptions, "steps", "limit", "revisions")
measurement_options = options_of(
    AuditOptions, "corpus", "variants", "measurements", "calibration", "calibration_sequences", "mechanism",
    "batches", "batch_size", "arithmetic", "seq_len",
)  # fmt: skip
resource_options = options_of(
    AuditOptions, "address", "device", "workers", "workers_per_gpu", "gpus_per_worker", "task_timeout_s"
)
stale_option = options_of(AuditOptions, "replace_stale")
all_audit_options = options_of(AuditOptions)
missing_option = click.option(
    "--allow-missing",
    is_flag=True,
    help="Report without the checkpoints that have no shard; the report says so.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of every resampling."
)
decision_options = options_of(DecisionOptions)


def parse_steps(text: str, option: str = "--steps") -> tuple[int, ...]:
    """Parse the value of ``--steps``, or of ``option``, which errors name.

    >>> parse_steps("0,1000")
    (0, 1000)
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{option} {text}: wanted whole numbers separated by commas, such as 0,1000,2000"
        ) from None


def picked(kind: type, options: dict[str, Any]) -> dict[str, Any]:
    """Those of ``options`` that are given and are fields of the dataclass ``kind``."""
    named = {field.name: options.get(field.name) for field in fields(kind)}
    return {name: value for name, value in named.items() if value is not None}


def shares_gpu(options: dict[str, Any]) -> bool:
    """Whether the command may choose how many runs share a GPU: no option says it."""
    source = click.get_current_context().get_parameter_source("workers_per_gpu")
    return source == click.core.ParameterSource.DEFAULT and options["gpus_per_worker"] is None

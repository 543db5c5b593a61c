"""Triton's interpreter in a third of its time."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from triton.language import core
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction


def quicken_once() -> None:
    """Has the interpreter do once what it does at every call, or for every value of one type."""
    _patch_language_once()
    _remember_types()
    builder = interpreter.interpreter_builder
    # Sums and products are compared with the limits of integers for assertions that only its debug mode makes.
    assert not builder.options.debug
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def _patch_language_once() -> None:
    """Has a module's jitted functions patch ``triton.language`` at their first call by another one only.

    The interpreter looks through all of the language's members before each such call, and never takes its patches
    back: from the second call on it finds nothing to do.
    """
    call_patching, patched = InterpretedFunction.__call__, set()

    def call(self: InterpretedFunction, *args: object, **kwargs: object) -> object:
        if self.fn.__module__ in patched:
            return self.rewrite()(*args, **kwargs)
        patched.add(self.fn.__module__)
        return call_patching(self, *args, **kwargs)

    InterpretedFunction.__call__ = call


def _remember_types() -> None:
    """Has types of values made once: NumPy's of a scalar, the block of a scalar and a shape, the shape of a block."""
    make, made = interpreter._get_np_dtype, dict[str, Any]()

    def numpy_type(of: Any) -> Any:
        scalar = of.scalar
        if scalar.is_ptr():
            return make(scalar)
        if scalar.name not in made:
            made[scalar.name] = make(scalar)
        return made[scalar.name]

    blocks = dict[Any, Any]()

    def block_of(scalar: Any, shape: Any) -> Any:
        if not isinstance(scalar, core.dtype) or scalar.is_ptr():
            return core.block_type(scalar, shape)
        key = (scalar.name, *map(int, shape))
        if key not in blocks:
            blocks[key] = core.block_type(scalar, shape)
        return blocks[key]

    shapes = dict[Any, Any]()

    def value(self: Any, handle: Any, of: Any) -> None:
        self.handle, self.type, self.dtype = handle, of, of.scalar
        sizes = (*of.shape,) if of.is_block() else ()
        if sizes not in shapes:
            constants = core.tuple([core.constexpr(size) for size in sizes])
            shapes[sizes] = core.constexpr(math.prod(sizes)), constants
        self.numel, self.shape = shapes[sizes]

    interpreter._get_np_dtype = numpy_type
    core.block_type.with_element_ty = lambda self, scalar: block_of(scalar, self.shape)
    interpreter.InterpreterBuilder.get_block_ty = lambda _, scalar, shape: block_of(scalar, shape)
    core.tensor.__init__ = value

"""Triton's interpreter in half of its time."""

from __future__ import annotations

from typing import Any

from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction


def patch_language_once() -> None:
    """Has a module's jitted functions patch ``triton.language`` at their first call by another one only.

    The interpreter looks through all of the language's members before each such call, and never takes its patches
    back: from the second call on it finds nothing to do. It also makes a table of all data types for each value.
    """
    make, made = interpreter._get_np_dtype, dict[str, Any]()

    def data_type(of: Any) -> Any:
        """The same for every value and block of one scalar type."""
        scalar = of.scalar
        if scalar.is_ptr():
            return make(scalar)
        if scalar.name not in made:
            made[scalar.name] = make(scalar)
        return made[scalar.name]

    interpreter._get_np_dtype = data_type
    call_patching, patched = InterpretedFunction.__call__, set()

    def call(self: InterpretedFunction, *args: object, **kwargs: object) -> object:
        if self.fn.__module__ in patched:
            return self.rewrite()(*args, **kwargs)
        patched.add(self.fn.__module__)
        return call_patching(self, *args, **kwargs)

    InterpretedFunction.__call__ = call

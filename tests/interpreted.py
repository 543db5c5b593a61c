"""Triton's interpreter in half of its time."""

from __future__ import annotations

from triton.runtime.interpreter import InterpretedFunction


def patch_language_once() -> None:
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

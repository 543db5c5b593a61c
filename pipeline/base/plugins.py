"""Sets that grow by one file: a registry per set, filled by the library's own modules and by plug-ins.

A plug-in is a module that registers members when it is imported. It is found in two ways:

- an installed package names it in the entry-point group ``int4_collapse.plugins``;
- the environment variable ``INT4_COLLAPSE_PLUGINS`` names it, as a module or as a path that ends in ``.py``, several
  separated by commas.

The command line and every worker load both at their start. Elsewhere a registry loads them when all its members are
requested, or for a name that the library itself does not define; imports inside the library need no plug-in.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, Protocol, TypeVar

from pipeline.base.errors import CollapseError, UsageError, unknown_name

GROUP = "int4_collapse.plugins"
VARIABLE = "INT4_COLLAPSE_PLUGINS"


class Named(Protocol):
    """A member of a registry."""

    @property
    def name(self) -> str:
        """Name for users, unique within its set."""
        ...


Member = TypeVar("Member", bound=Named)
_loading = threading.RLock()
_loaded: set[str] = set()


class Registry(Generic[Member]):
    """The members of one set by name."""

    def __init__(self, noun: str, package: str, place: Callable[[Member], str] | None = None) -> None:
        """``noun``: what a member is, such as ``schedule``. ``package``: where the library's own files are.
        ``place``: where a member is defined, if its class does not tell it from others.
        """
        self._noun, self._package = noun, package
        self._place: Callable[[Member], str] = place or _place
        self._members: dict[str, Member] = {}
        self._has_own = self._loads_own = False

    def register(self, member: Member) -> Member:
        """Add ``member``; also a decorator. Raises UsageError if another member has its name."""
        other = self._members.setdefault(member.name, member)
        if other is not member and self._place(other) != self._place(member):
            raise UsageError(
                f"two {self._noun}s are called {member.name!r}: {self._place(other)} and {self._place(member)}; "
                "rename one, or leave its plug-in out"
            )
        self._members[member.name] = member
        return member

    def find(self, name: str) -> Member:
        """The member called ``name``. Raises UsageError with the nearest names if there is none."""
        self._load_own()
        if name not in self._members:
            load_plugins()
        if name not in self._members:
            raise unknown_name(self._noun, name, self.names())
        return self._members[name]

    def place(self, name: str) -> str:
        """Place where the member called ``name`` is defined."""
        return self._place(self.find(name))

    def remove(self, name: str) -> None:
        """Forget the member called ``name``, if there is one."""
        self._members.pop(name, None)

    def known(self) -> tuple[Member, ...]:
        """The library's own members and those of the plug-ins that are loaded already."""
        self._load_own()
        return tuple(self._members.values())

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        self._load_own()
        load_plugins()
        return tuple(sorted(self._members))

    def __iter__(self) -> Iterator[Member]:
        """The members, by name."""
        return iter([self._members[name] for name in self.names()])

    def _load_own(self) -> None:
        if self._has_own:
            return
        with _loading:
            if self._has_own or self._loads_own:  # loading: one of the files asks for the members so far
                return
            self._loads_own = True
            try:
                package = importlib.import_module(self._package)
                for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
                    importlib.import_module(module.name)
                self._has_own = True
            finally:
                self._loads_own = False


def plugins_named() -> bool:
    """Whether any plug-in is named; loads none."""
    return bool(_entries()) or bool(_named_words())


def load_plugins() -> None:
    """Import every plug-in that is not imported yet. Raises UsageError if one cannot be imported."""
    with _loading:
        for entry in _entries():
            _once(entry.value, f"plug-in {entry.name!r} ({entry.value})")
        for word in _named_words():
            _once(word, f"plug-in {word} (named in {VARIABLE})")


def worker_environment() -> dict[str, str]:
    """Environment variables with which a worker process loads the plug-ins of this one, wherever it runs.

    A file is named by its absolute path, which every node must have.
    """
    return {VARIABLE: ",".join(_absolute(word) for word in _named_words())} if _named_words() else {}


@functools.cache
def _entries() -> tuple[EntryPoint, ...]:
    """Plug-ins named by installed packages; found once, because that reads the metadata of all packages."""
    return tuple(entry_points(group=GROUP))


def _named_words() -> list[str]:
    return [word for word in map(str.strip, os.environ.get(VARIABLE, "").split(",")) if word]


def _absolute(word: str) -> str:
    return str(Path(word).absolute()) if word.endswith(".py") else word


def _once(word: str, told: str) -> None:
    """Import the plug-in that ``word`` names, a module or a file; ``told`` names it in an error."""
    if word in _loaded:
        return
    try:
        _import_file(Path(word)) if word.endswith(".py") else importlib.import_module(word.partition(":")[0])
    except CollapseError as error:
        raise UsageError(f"{told}: {error}") from error
    except Exception as error:
        raise UsageError(
            f"{told} cannot be loaded: {type(error).__name__}: {error}; mend it or leave it out"
        ) from error
    _loaded.add(word)


def _import_file(path: Path) -> ModuleType:
    """Import a file outside the import path under the file's own name, by which other processes know it."""
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError("there is no such file")
    found = importlib.util.find_spec(name)
    if found is not None and (found.origin is None or Path(found.origin).resolve() != path.resolve()):
        raise UsageError(f"there is another module called {name!r}: rename the file")
    if name in sys.modules:
        return sys.modules[name]
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _place(member: object) -> str:
    """File and name where ``member`` is defined."""
    definition = member if inspect.isclass(member) else type(member)
    try:
        file = inspect.getsourcefile(definition) or definition.__module__
    except (TypeError, OSError):
        file = definition.__module__
    return f"{definition.__qualname__} in {file}"

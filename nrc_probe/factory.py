"""`package.module:function` -> the function. Code runs only where the user said so."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nrc_probe.errors import CodeRefusedError, ConfigError

_found_in: dict[str, Path] = {}
"""Modules that were imported from a factory's own folder, and which: another folder may have others of
the same names."""
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_factory(reference: str) -> bool:
    """Whether `reference` has the form package.module:function."""
    return _REFERENCE.fullmatch(reference) is not None


def load_factory(reference: str, *, trusted: bool, folder: Path | None) -> Callable[..., object]:
    """The function that `reference` names, imported from the Python path, the current folder or `folder`.

    Modules of the same name in different folders are different modules.
    Raises CodeRefusedError unless `trusted`; ConfigError where there is no such function.
    """
    if not trusted:
        raise CodeRefusedError(
            f"'{reference}' would run code that a file asks for, not you: "
            "name it yourself as an option, or add --allow-code"
        )
    module_name, _, name = reference.partition(":")
    with _import_path([Path.cwd(), *([folder] if folder else [])]), _own_modules(folder):
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:  # the user's module may fail in any way: name it and go on
            raise ConfigError(
                f"'{reference}': importing {module_name} failed ({type(error).__name__}: {error})"
            ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"'{reference}': module {module_name} has no function '{name}'")
    return function  # type: ignore[no-any-return]  # callable() narrows Any no further


@contextmanager
def _import_path(folders: list[Path]) -> Iterator[None]:
    """Put `folders` at the end of the import path for a while: installed packages keep precedence."""
    added = [str(folder.resolve()) for folder in folders]
    sys.path.extend(added)
    try:
        yield
    finally:
        for entry in added:
            sys.path.remove(entry)


@contextmanager
def _own_modules(folder: Path | None) -> Iterator[None]:
    """Forget what earlier factories imported from folders of theirs; mind what comes from `folder` now."""
    place = folder.resolve() if folder else None
    for name in [name for name, other in _found_in.items() if other != place]:
        sys.modules.pop(name, None)
        del _found_in[name]
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in sys.modules.keys() - before:
            file = getattr(sys.modules[name], "__file__", None)
            if place and file and Path(file).resolve().is_relative_to(place):
                _found_in[name] = place

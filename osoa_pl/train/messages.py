"""One line for a mistake in a config or on the command line, with the near neighbours.

jsonargparse tells all that it tried, over a dozen lines. What it wants to say stands in one of
them; the patterns below find it. A message that fits none is put on one line as it is.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.loggers import Logger

from osoa_pl.errors import UsageError
from osoa_pl.models.density import Density

_BASES = {
    "model.model": Density,
    "data": LightningDataModule,
    "trainer.callbacks": Callback,
    "trainer.logger": Logger,
}
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true, false",
    "str": "text",
    "tuple": "a list",
    "dict": "keys with values",
    "NoneType": "null",
}
_MAX_LENGTH = 300


def near(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'width'?``, or nothing where no known word is near."""
    found = difflib.get_close_matches(word, list(known), n=2, cutoff=0.7)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def explain(message: str, verb: str, keys: Sequence[str]) -> UsageError:
    """The error to raise for a message of jsonargparse; `keys`: all keys of the verb's configs."""
    everything = f"`osoa {verb} --help-all` lists all options"
    if found := re.search(r"[Uu]nrecognized arguments: (\S+)", message):
        word = found[1].split("=")[0]
        if not word.startswith("-"):
            return UsageError(f"unexpected argument {word!r}", hint=everything)
        _, _, close = _unknown(word.lstrip("-"), keys)
        return UsageError(f"unknown option {word!r}{close}", hint=everything)
    if found := re.search(r"does not accept option '([^']+)'", message):
        above, part, close = _unknown(found[1], keys)
        where = f"{above}: " if above else ""
        return UsageError(f"{where}unknown key {part!r}{close}", hint=everything)
    key = _first(r'Parser key "([^"]+)"', message)
    inner = re.search(r"class_path '([^']+)':\s+Parser key \"([^\"]+)\":\s+(Expected .+)", message)
    if inner:
        return UsageError(_wrong_value(f"{key} ({_short(inner[1])}): {inner[2]}", inner[3]))
    if found := re.search(r"Option '([^']+)' is not accepted", message):
        path = _last(r"class_path '([^']+)'", message[: found.start()])
        what = f"{key} ({_short(path)})" if path else key
        hint = (
            f"`osoa {verb} --{key}.help {_short(path)}` lists its options" if path else everything
        )
        return UsageError(
            f"{what}: unknown option {found[1]!r}{near(found[1], _options(path))}",
            hint=hint if key in _BASES else None,
        )
    if found := re.search(r"arguments are required: (.+)", message):
        names = found[1].replace(f"{verb}.", "")
        path = _last(r"class_path '([^']+)'", message[: found.start()])
        if path:
            return UsageError(f"{key} ({_short(path)}): {names} must be given")
        return UsageError(f"{names} must be given", hint="give a config with -c, or the option")
    if found := re.search(r"Expected a dot import path string: (\S+)", message):
        return UsageError(f"{key}: unknown class {found[1]!r}{near(found[1], _classes(key))}")
    if found := re.search(r"Multiple subclasses with name (\w+).*ambiguity: (.+?)\.?$",
                          message, re.MULTILINE):  # fmt: skip
        return UsageError(f"{key}: more than one class is called {found[1]}: {found[2]}")
    if found := re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", message):
        return UsageError(f"{key}: {_short(found[1])} is not a {found[2]}")
    if found := re.search(r"class_path '([^']+)':\s+(No module named .+|.*has no attribute.+)",
                          message):  # fmt: skip
        return UsageError(f"{key}: cannot import {found[1]}: {_lower(found[2])}")
    found = re.search(r"Union subtypes.*?Errors:\s+- ([^\n]+)", message, re.DOTALL)
    if found and not key:
        return UsageError(flat(found[1]))  # a class was made, and has said what is wrong
    if "Expected a " in message and key:
        return UsageError(_wrong_value(key, message))
    return UsageError(flat(message))


def flat(message: str) -> str:
    """A message on one line, cut where it is long.

    >>> flat("Parser key x:\\n  - this\\n  - that")
    'parser key x: this; that'
    """
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()]
    joined = "; ".join(lines).replace(":; ", ": ")
    short = joined if len(joined) <= _MAX_LENGTH else joined[:_MAX_LENGTH] + "..."
    return _lower(short.rstrip(".!") if short == joined else short)


def _unknown(path: str, keys: Sequence[str]) -> tuple[str, str, str]:
    """(known start, first unknown part, its near neighbours) of a dotted key."""
    parts = path.split(".")
    known = {".".join(key.split(".")[:n]) for key in keys for n in range(key.count(".") + 2)}
    count = next((n for n in range(len(parts)) if ".".join(parts[: n + 1]) not in known), 0)
    above = ".".join(parts[:count])
    prefix = f"{above}." if above else ""
    siblings = {key.removeprefix(prefix).split(".")[0] for key in known if key.startswith(prefix)}
    return above, parts[count], near(parts[count], sorted(siblings))


def _wrong_value(key: str, message: str) -> str:
    value = _first(r"(?:Got value|Given value): (.*)", message)
    choices: list[str] = []
    expected: list[str] = []
    for kind in re.findall(r"Expected an? (.+?)(?:\. Got value.*)?$", message, re.MULTILINE):
        if literal := re.match(r"typing\.Literal(\[.*\])", kind):
            names = [str(choice) for choice in ast.literal_eval(literal[1])]
            choices += names
            expected += names
        elif not kind.startswith("path but"):
            name = _short(_first(r"<class '([^']+)'>", kind) or kind)
            expected.append(_TYPES.get(name, name.replace("tuple with", "a list of")))
    *most, last = dict.fromkeys(expected)
    listed = f"{', '.join(most)} or {last}" if most else last
    word = value.strip("'\"")
    return f"{key}: found {word!r}, expected {listed}{near(word, choices)}"


def _options(path: str) -> list[str]:
    """Names of the options of a class; none where it cannot be imported."""
    try:
        module, _, name = path.rpartition(".")
        kind = getattr(import_module(module), name)
        return list(ArgumentParser().add_class_arguments(kind, fail_untyped=False))
    except (ImportError, AttributeError, ValueError):
        return []


def _classes(key: str) -> list[str]:
    """Short names of the classes that may stand at a key."""
    bases: list[Any] = [_BASES[key]] if key in _BASES else list(_BASES.values())
    kinds = {kind for base in bases for kind in _below(base)}
    return sorted({kind.__name__ for kind in kinds if not inspect.isabstract(kind)})


def _below(base: Any) -> Iterator[Any]:
    for kind in base.__subclasses__():
        yield kind
        yield from _below(kind)


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def _last(pattern: str, text: str) -> str:
    found = re.findall(pattern, text)
    return found[-1] if found else ""


def _short(path: str) -> str:
    return path.rpartition(".")[2]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]

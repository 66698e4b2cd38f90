"""Adapters both ways between these codecs and craystack's; import this module on request only.

The states and the order of words are the same, so messages convert without a loss. What differs:
craystack's messages are never changed (ours are consumed), its tail is a list of arrays, and it
invents words when the tail is empty, which is an error here, also for its codecs.

craystack is not on a package index: clone j-towns/craystack and `pip install -e` the clone.
"""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import numpy as np

from osoa_pl.coding.codecs import Codec
from osoa_pl.coding.rans import Message
from osoa_pl.coding.stack import Engine, UInt32Array, WordStack
from osoa_pl.errors import CoderError, UsageError

ForeignMessage = tuple[Any, Any]  # (head, () or (array, rest)), the topmost array first


def export_message(message: Message) -> ForeignMessage:
    """craystack's form of a message; a copy."""
    head, tail = message
    return head.copy(), _listed(tail.content())


def import_message(message: ForeignMessage, engine: Engine = "numpy") -> Message:
    """Our form of a craystack message; a copy."""
    head, listed = message
    tail = WordStack(engine=engine)
    arrays = _arrays(listed)
    if arrays:
        tail.push(np.concatenate(arrays))
    return Message(np.array(head, np.uint64), tail)


def import_codec(codec: Any) -> Codec:
    """A craystack codec for our messages; the cost of a call grows with what it adds or removes.

    Raises CoderError where craystack would go on with random words, the message unchanged.
    """
    _craystack()

    def push(message: Message, x: Any, *context: Any) -> tuple[Any, ...]:
        (head, listed), *rest = _strict(codec.push, _shown(message), x, *context)
        return (_taken_over(message, head, listed), *rest)

    def pop(message: Message, *context: Any) -> tuple[Any, ...]:
        (head, listed), x, *rest = _strict(codec.pop, _shown(message), *context)
        return (_taken_over(message, head, listed), x, *rest)

    return Codec(push, pop)


def export_codec(codec: Codec, engine: Engine = "numpy") -> Any:
    """One of our codecs for craystack's messages, as a craystack `Codec`.

    Every call copies the message, because craystack's are not consumed; where that matters, use
    `import_message` once and work on the result.
    """
    foreign = _craystack()

    def push(message: ForeignMessage, x: Any, *context: Any) -> tuple[Any, ...]:
        ours, *rest = codec.push(import_message(message, engine), x, *context)
        return (export_message(ours), *rest)

    def pop(message: ForeignMessage, *context: Any) -> tuple[Any, ...]:
        ours, x, *rest = codec.pop(import_message(message, engine), *context)
        return (export_message(ours), x, *rest)

    return foreign.Codec(push, pop)


def _craystack() -> ModuleType:
    try:
        import craystack  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise UsageError(
            f"craystack cannot be imported ({error})",
            hint="clone https://github.com/j-towns/craystack and run `pip install -e` on the clone",
        ) from None
    return craystack  # type: ignore[no-any-return, unused-ignore]


def _shown(message: Message) -> ForeignMessage:
    """A craystack message over our buffer: it is never written to."""
    head, tail = message
    return head, _listed(tail.words[: tail.size])


def _listed(words: UInt32Array) -> Any:
    return (words[::-1], ()) if len(words) else ()


def _arrays(listed: Any) -> list[UInt32Array]:
    arrays = []
    while listed:
        array, listed = listed
        arrays.append(array)
    return arrays


def _taken_over(message: Message, head: Any, listed: Any) -> Message:
    """Our message after craystack's call: what is left of our words stays where it is."""
    tail = message.tail
    arrays = _arrays(listed)
    left = 0
    if arrays and np.may_share_memory(arrays[-1], tail.words):
        left = len(arrays.pop())
    tail.size = left
    if arrays:
        tail.push(np.concatenate(arrays))
    return Message(np.array(head, np.uint64), tail)


def _strict(call: Any, *arguments: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Popping from empty message")
        try:
            return call(*arguments)
        except UserWarning:
            raise CoderError("message exhausted: a craystack codec needs more words") from None

"""Whether a pickle can be read in a time that its length gives: told from its steps, none of which is made.

A tuple that holds another twice, and so on, is a few bytes for each doubling. Hashing it as a key, or
writing it into a message, walks all of it: forty doublings never end, and cannot be interrupted.
"""

from __future__ import annotations

import pickletools
from typing import BinaryIO, NamedTuple

_SPARED = 10**6
"""Items of a tuple written out that cost nothing, whatever the length of the file."""
_PUTS, _GETS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
_CALLS, _TUPLES = ("REDUCE", "NEWOBJ"), ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")


class _Item(NamedTuple):
    size: int
    """Items of what a tuple holds, written out; only tuples can be hashed, so others count as one."""
    may_be_called: bool
    """Whether it is named or was returned; a message that a list is no function would write it out."""


_MARK, _NAMED, _OTHER = _Item(0, False), _Item(1, True), _Item(1, False)


def unfolds_without_end(file: BinaryIO) -> bool:
    """Whether reading the pickle at the place of `file` would take far longer than its length says.

    False also where it is broken: whoever reads it says how.
    """
    stack: list[_Item] = []
    memo: dict[object, _Item] = {}
    try:
        for opcode, argument, place in pickletools.genops(file):
            if opcode.name in _PUTS:
                memo[argument] = stack[-1]
            elif opcode.name in _GETS:
                stack.append(memo[argument])
            else:
                taken = _take(opcode, stack)
                if opcode.name in _CALLS and not taken[0].may_be_called:
                    return True
                made = _made(opcode.name, taken)
                if made.size > _SPARED + (place or 0):
                    return True
                stack += [made] * len(opcode.stack_after)
    except (ValueError, LookupError):
        return False
    return False


def _take(opcode: pickletools.OpcodeInfo, stack: list[_Item]) -> list[_Item]:
    """What an opcode takes from the stack, the deepest first."""
    taken: list[_Item] = []
    fixed = len(opcode.stack_before)
    if pickletools.stackslice in opcode.stack_before:
        fixed -= 2
        while (top := stack.pop()) is not _MARK:
            taken.append(top)
    taken += [stack.pop() for _ in range(fixed)]
    return taken[::-1]


def _made(name: str, taken: list[_Item]) -> _Item:
    if name == "MARK":
        return _MARK
    if name in ("GLOBAL", "BINPERSID"):
        return _NAMED
    if name in (*_TUPLES, *_CALLS):
        return _Item(1 + sum(item.size for item in taken), name in _CALLS)
    return _OTHER

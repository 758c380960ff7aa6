"""Replacing this process by a newer program, with the same pid, and what that one inherits.

Knows descriptors by name, the variable that tells their numbers, and `exec`. Refuses to know
what a descriptor is good for: whoever takes one over looks at it first.
"""

import fcntl
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

INHERITANCE_VARIABLE = "EXAI_INHERITED"
_FIRST_DESCRIPTOR = 3


class NotInherited(Exception):
    """The variable is not one that this process was left; the message says why."""


class Inheritance(NamedTuple):
    """The descriptors that a daemon leaves to its successor, as far as there are any."""

    websocket: int | None = None
    http: int | None = None
    lock: int | None = None

    def numbers(self) -> list[int]:
        """Return the descriptors that there are."""
        return [number for number in self if number is not None]

    def close(self) -> None:
        """Close them all: nobody inherits."""
        for number in self.numbers():
            os.close(number)

    def text_for(self, pid: int) -> str:
        """Return the value of the variable, by which the process `pid` and no other inherits."""
        named = (f"{n}={number}" for n, number in self._asdict().items() if number is not None)
        return f"{pid}:{','.join(named)}"


NOTHING = Inheritance()


def inheritance_in(text: str | None, pid: int) -> Inheritance:
    """Return what the variable says that the process `pid` was left. Raises `NotInherited`."""
    if text is None:
        return NOTHING
    heir, _, listed = text.partition(":")
    pairs = [pair.partition("=") for pair in listed.split(",")] if listed else []
    numbers = {name: int(number) for name, _, number in pairs if number.isdecimal()}
    if len(numbers) != len(pairs) or not numbers.keys() <= set(Inheritance._fields):
        raise NotInherited(f"{INHERITANCE_VARIABLE} names no descriptors: {text!r}")
    if heir != str(pid):
        raise NotInherited(f"{INHERITANCE_VARIABLE} is meant for another process: {text!r}")
    for name, number in numbers.items():
        if number < _FIRST_DESCRIPTOR or not _is_open(number):
            raise NotInherited(f"{INHERITANCE_VARIABLE}: {name}={number} is no open descriptor")
        os.set_inheritable(number, False)
    return Inheritance(**numbers)


def duplicate(descriptor: int) -> int:
    """Return a second descriptor of the same open file, which stays when the first is closed."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR)


def replace_process(
    command: Sequence[str], environment: Mapping[str, str], inheritance: Inheritance
) -> NoReturn:
    """Run another program in this process, and leave it what it inherits. Raises `OSError`."""
    for number in inheritance.numbers():
        os.set_inheritable(number, True)
    variable = {INHERITANCE_VARIABLE: inheritance.text_for(os.getpid())}
    os.execve(command[0], [*command], {**environment, **variable})


def _is_open(descriptor: int) -> bool:
    with suppress(OSError):
        os.fstat(descriptor)
        return True
    return False

"""A reader of pickles that runs nothing: a list of records of texts, numbers, None, and lists or dicts of these.

A pickle is a program for a machine that can call any function it names. This is another machine, which has only the
instructions for plain values; one that names a function or an object ends the reading with UnsafeFile, and nothing that
the file names is ever looked up. Records are given one batch after another and then forgotten: the memory it takes is
bounded, whatever the file says (`MAX_VALUES`, `MAX_TEXT_BYTES`, `MAX_DEPTH`), but for 8 bytes for each entry of the
memo, which refers to the file. Protocols 2 to 5, the binary ones: Python 3 has written no other by itself.
Source: CPython's Lib/pickletools.py, which documents each instruction.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from shard.errors import InvalidFile, UnsafeFile

MAX_VALUES = 8_000_000
"""Most values of one batch: Python writes 1,000 records a batch, so 8,000 values a record."""
MAX_TEXT_BYTES = 1 << 20
MAX_DEPTH = 4
"""Of lists and dicts in each other: the list of records is one, a record two, its embedding three."""
_MAX_MARKS = 16
_MAX_INTEGER_BYTES = 16
_FLOAT_RUN = 4_096

_UNSAFE = {
    b"c": "GLOBAL", b"\x93": "STACK_GLOBAL", b"R": "REDUCE", b"i": "INST", b"o": "OBJ", b"b": "BUILD",
    b"\x81": "NEWOBJ", b"\x92": "NEWOBJ_EX", b"P": "PERSID", b"Q": "BINPERSID", b"\x82": "EXT1", b"\x83": "EXT2",
    b"\x84": "EXT4", b"\x97": "NEXT_BUFFER", b"\x98": "READONLY_BUFFER",
}  # fmt: skip
"""Instructions that name, call or fetch what is not in the file."""


class _List(list[object]):
    height = 1


class _Dict(dict[object, object]):
    height = 1


class PickleReader:
    """The records of one pickle. Single use."""

    def __init__(self, path: Path) -> None:
        """Map the file; InvalidFile if it cannot be read or is empty."""
        self._path, self._at = path, 0
        try:
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise InvalidFile(f"{path}: expected a pickle: {error}") from error
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo = array("q")  # where in the file a text is; -1 for what may not be referred to again
        self._last = -1  # where the instruction began whose value is on top, if that is a text
        self._values = 0
        self._records: list[object] = []

    def records(self) -> Iterator[object]:
        """Every record in order: a dict, list, text, number or None. InvalidFile, UnsafeFile."""
        while True:
            begin = self._at
            code = self._take(1)
            if code == b".":
                break
            step = _STEPS.get(code)
            if step is None:
                self._refuse(code, begin)
            step(self)
            if code in _TEXTS:
                self._last = begin
            elif code not in _KEEPS:
                self._last = -1
            if self._records:
                yield from self._records
                self._records, self._values = [], 0
        if len(self._stack) != 1 or self._marks or not isinstance(self._stack[0], _List):
            self._fail("expected one list of records, and the end of the pickle after it")

    def _refuse(self, code: bytes, begin: int) -> NoReturn:
        if code in _UNSAFE:
            raise UnsafeFile(
                f"{self._path}: byte {begin}: the pickle instruction {_UNSAFE[code]} names or calls what is not in the"
                f" file{self._named(code)}; only lists, dicts, texts and numbers are read, and nothing was executed"
            )
        self._at = begin
        self._fail(f"expected a list of records of plain values, got the pickle instruction {code!r}")

    def _named(self, code: bytes) -> str:
        """What an instruction names, as far as that can be shown."""
        if code == b"\x93":
            names = self._stack[-2:]
        elif code in (b"c", b"i"):
            names = list(self._data[self._at : self._at + 200].split(b"\n")[:2])
        else:
            return ""
        return f" ({'.'.join(n.decode(errors='replace') if isinstance(n, bytes) else str(n) for n in names)!r:.200})"

    def _fail(self, what: str) -> NoReturn:
        raise InvalidFile(f"{self._path}: byte {self._at}: {what}")

    # Bytes

    def _take(self, size: int) -> bytes:
        data = self._data[self._at : self._at + size]
        if len(data) != size:
            self._fail(f"the pickle is cut short: expected {size} more bytes, got {len(data)}")
        self._at += size
        return data

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    # Values

    def _push(self, value: object) -> None:
        self._count(1)
        self._stack.append(value)

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise UnsafeFile(f"{self._path}: byte {self._at}: more than {MAX_VALUES} values in one batch of records")

    def _pop(self) -> object:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            self._fail("the pickle takes a value where there is none")
        return self._stack.pop()

    def _since_mark(self) -> list[object]:
        if not self._marks:
            self._fail("the pickle takes values where no group of them was begun")
        begin = self._marks.pop()
        values = self._stack[begin:]
        del self._stack[begin:]
        return values

    def text(self, size: int) -> None:
        """A text whose length is in so many bytes."""
        self._push(self._read_text(size))

    def _read_text(self, size: int) -> str:
        length = self._number(size)
        if length > MAX_TEXT_BYTES:
            raise UnsafeFile(f"{self._path}: byte {self._at}: a text of {length} bytes; at most {MAX_TEXT_BYTES}")
        try:
            return self._take(length).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            self._fail(f"a text that is not UTF-8: {error}")

    def integer(self, size: int, *, is_signed: bool = False) -> None:
        """An integer of so many bytes."""
        self._push(int.from_bytes(self._take(size), "little", signed=is_signed))

    def long(self, size: int) -> None:
        """A signed integer whose length is in so many bytes."""
        length = self._number(size)
        if length > _MAX_INTEGER_BYTES:
            raise UnsafeFile(f"{self._path}: byte {self._at}: an integer of {length} bytes")
        self.integer(length, is_signed=True)

    def floats(self) -> None:
        """This float and those that follow it at once: an embedding is a run of them."""
        self._at -= 1
        most = min(_FLOAT_RUN, (len(self._data) - self._at) // 9)
        if most == 0:
            self._at += 1
            self._take(8)
        run = np.frombuffer(self._data[self._at : self._at + 9 * most], dtype=[("code", "u1"), ("value", ">f8")])
        others = np.flatnonzero(run["code"] != ord("G"))
        count = int(others[0]) if len(others) else most
        self._count(count)
        self._stack += run["value"][:count].tolist()
        self._at += 9 * count

    def mark(self) -> None:
        """Begin a group of values."""
        if len(self._marks) == _MAX_MARKS:
            raise UnsafeFile(f"{self._path}: byte {self._at}: groups nested more than {_MAX_MARKS} deep")
        self._marks.append(len(self._stack))

    # Lists and dicts

    def append(self) -> None:
        """One value to the list below it."""
        self._extend([self._pop()])

    def appends(self) -> None:
        """A group of values to the list below it."""
        self._extend(self._since_mark())

    def _extend(self, values: list[object]) -> None:
        target = self._target(_List, "list")
        if len(self._stack) == 1 and not self._marks:
            self._records += values
            return
        assert isinstance(target, _List)
        self._grow(target, values)
        target += values

    def set_item(self) -> None:
        """One key and its value to the dict below them."""
        value = self._pop()
        self._set([self._pop(), value])

    def set_items(self) -> None:
        """A group of keys and values to the dict below them."""
        self._set(self._since_mark())

    def _set(self, pairs: list[object]) -> None:
        target = self._target(_Dict, "dict")
        assert isinstance(target, _Dict)
        if len(pairs) % 2 or not all(isinstance(key, str) for key in pairs[::2]):
            self._fail("expected texts as keys of a dict, and a value for each")
        self._grow(target, pairs[1::2])
        target.update(zip(pairs[::2], pairs[1::2], strict=True))

    def _target(self, kind: type, name: str) -> object:
        begin = self._marks[-1] if self._marks else 0
        if len(self._stack) <= begin or not isinstance(self._stack[-1], kind):
            self._fail(f"expected a {name} to add values to")
        return self._stack[-1]

    def _grow(self, target: _List | _Dict, values: list[object]) -> None:
        inner = max((v.height for v in values if isinstance(v, (_List, _Dict))), default=0)
        target.height = max(target.height, inner + 1)
        if target.height >= MAX_DEPTH:
            raise UnsafeFile(f"{self._path}: byte {self._at}: lists and dicts nested more than {MAX_DEPTH} deep")

    # The memo

    def memoize(self) -> None:
        """Remember the value on top under the next number."""
        if not self._stack:
            self._fail("the pickle remembers a value where there is none")
        self._memo.append(self._last)

    def put(self, size: int) -> None:
        """Remember the value on top under a number of so many bytes: the next one, as Python writes it."""
        index = self._number(size)
        if index != len(self._memo):
            self._fail(f"expected number {len(self._memo)} of remembered values, got {index}")
        self.memoize()

    def get(self, size: int) -> None:
        """A text that was remembered."""
        index = self._number(size)
        if index >= len(self._memo):
            self._fail(f"number {index} of remembered values is asked for, there are {len(self._memo)}")
        if self._memo[index] < 0:
            self._fail("one list or dict stands in several places, or in itself")
        back, self._at = self._at, self._memo[index]
        self._push(self._read_text(_TEXTS[self._take(1)]))
        self._at = back

    def frame(self) -> None:
        """A length for readers of streams; instructions go on after it."""
        self._take(8)

    def protocol(self) -> None:
        """The first instruction, and allowed there only."""
        if self._at != 1 or not 2 <= self._number(1) <= 5:
            self._fail("expected a pickle of protocol 2 to 5")

    def empty(self, kind: type) -> None:
        """An empty list or dict."""
        self._push(kind())


_TEXTS = {b"\x8c": 1, b"X": 4, b"\x8d": 8}
"""Instructions of texts, and how many bytes their lengths have."""
_KEEPS = {b"\x94", b"q", b"r", b"\x95"}
"""Those that leave the top of the stack what it is."""
_Step = Callable[[PickleReader], Any]
_STEPS: dict[bytes, _Step] = {
    b"\x80": PickleReader.protocol,
    b"\x95": PickleReader.frame,
    b"]": lambda r: r.empty(_List),
    b"}": lambda r: r.empty(_Dict),
    b"(": PickleReader.mark,
    b"a": PickleReader.append,
    b"e": PickleReader.appends,
    b"s": PickleReader.set_item,
    b"u": PickleReader.set_items,
    b"N": lambda r: r._push(None),
    b"\x88": lambda r: r._push(True),
    b"\x89": lambda r: r._push(False),
    b"K": lambda r: r.integer(1),
    b"M": lambda r: r.integer(2),
    b"J": lambda r: r.integer(4, is_signed=True),
    b"\x8a": lambda r: r.long(1),
    b"\x8b": lambda r: r.long(4),
    b"G": PickleReader.floats,
    b"\x8c": lambda r: r.text(1),
    b"X": lambda r: r.text(4),
    b"\x8d": lambda r: r.text(8),
    b"\x94": PickleReader.memoize,
    b"q": lambda r: r.put(1),
    b"r": lambda r: r.put(4),
    b"h": lambda r: r.get(1),
    b"j": lambda r: r.get(4),
}

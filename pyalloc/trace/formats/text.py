"""Reading text traces by columns: all lines of a piece of a file at once.

A file is read in pieces that end at a line.  In a piece, tokens are found by looking at every byte
once, and numbers are converted eight characters at a time in 64-bit words ("SIMD within a
register"), which is what makes a few million lines a second possible without a line of C.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from pyalloc.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Bool = npt.NDArray[np.bool_]
    I64 = npt.NDArray[np.int64]
    U64 = npt.NDArray[np.uint64]
    U8 = npt.NDArray[np.uint8]

T = TypeVar("T")

PIECE: Final = 1 << 21
_MOST_WORKERS: Final = 8
_PAD: Final = 24  # bytes before and after the text, so that words can be read across its ends
_NEWLINE: Final = 10
_LONGEST_HEX: Final = 16
_LONGEST_DECIMAL: Final = 20


def _spread(byte: int) -> np.uint64:
    return np.uint64(byte * 0x0101010101010101)


_ONES: Final = _spread(0x01)
_LOW: Final = _spread(0x0F)
_HIGH: Final = _spread(0xF0)
_BIT4: Final = _spread(0x10)
_SIX: Final = _spread(0x06)
_ZERO: Final = _spread(0x30)


def separators(characters: bytes) -> Bool:
    """Return a table of 256 flags: white space and ``characters`` end a token."""
    table = np.zeros(256, bool)
    table[np.frombuffer(b" \t\r\n\0" + characters, np.uint8)] = True
    return table


@dataclass(frozen=True, slots=True)
class Numbers:
    """Converted tokens, and which of them were no numbers."""

    value: U64
    bad: Bool


class Piece:
    """Some lines of a file, cut into tokens.

    ``first[i]`` and ``count[i]`` say which tokens line ``i`` has; ``start`` and ``end`` say where a
    token is in ``text``.
    """

    def __init__(self, path: Path, line: int, data: U8, table: Bool) -> None:
        self.path = path
        self.line = line
        """Number of lines of the file before this piece."""
        self.text = np.zeros(len(data) + 2 * _PAD, np.uint8)
        self.text[_PAD:-_PAD] = data
        self._words = np.ndarray((len(self.text) - 7,), "<u8", self.text, strides=(1,))
        splits = table[self.text]
        edges = np.flatnonzero(splits[1:] != splits[:-1]) + 1
        self.start: I64 = edges[0::2]
        self.end: I64 = edges[1::2]
        newline = np.flatnonzero(data == _NEWLINE) + _PAD
        self.line_start: I64 = np.concatenate([[_PAD], newline[:-1] + 1])
        borders = np.searchsorted(self.start, np.append(self.line_start, len(self.text)))
        self.first: I64 = borders[:-1]
        self.count: I64 = np.diff(borders)

    def __len__(self) -> int:
        return len(self.first)

    def char(self, token: I64, at: int = 0) -> U8:
        """Return one character of each token (of what follows it, beyond its end)."""
        return self.text[self.start[token] + at]

    def key(self, token: I64) -> U64:
        """Return a number for each token: the same only for the same first 15 characters."""
        start = self.start[token]
        length = np.minimum(self.end[token] - start, 15)
        low = self._words[start] & _mask(np.minimum(length, 8))
        high = self._words[start + 8] & _mask(np.maximum(length - 8, 0))
        # odd factors and a shift mix two words into one; the names in question are few
        mixed: U64 = low * np.uint64(0x9E3779B97F4A7C15) ^ high * np.uint64(0xC2B2AE3D27D4EB4F)
        return mixed ^ (mixed >> np.uint64(29))

    def word(self, token: int) -> bytes:
        """Return one token."""
        return self.text[self.start[token] : self.end[token]].tobytes()

    def line_text(self, i: int) -> str:
        """Return line ``i``, for people."""
        rest = self.text[self.line_start[i] :]
        stop = int(np.argmax(rest == _NEWLINE)) if (rest == _NEWLINE).any() else len(rest)
        return rest[:stop].tobytes().decode(errors="replace").rstrip("\r\0")

    def fail(self, i: int, what: str) -> NoReturn:
        """Raise the error for line ``i``."""
        text = self.line_text(i)
        shown = text if len(text) <= 80 else text[:77] + "..."
        message = f"{self.path}: line {self.line + i + 1}: {what}: {shown!r}"
        raise TraceError(message)

    def check(self, bad: Bool, rows: I64, what: str) -> None:
        """Raise for the first of ``rows`` (line numbers in this piece) that is ``bad``."""
        if bad.any():
            self.fail(int(rows[int(np.argmax(bad))]), what)

    # --- numbers

    def _eight(self, start: I64, end: I64, back: int) -> U64:
        """Return up to 8 characters that end ``back`` before ``end``, filled up with zeros."""
        stop = np.maximum(end - back, start)
        length = np.minimum(stop - start, 8)
        # the first character is the lowest byte: what is too early is shifted out below
        keep = ~_mask(8 - length)
        word: U64 = self._words[np.maximum(stop - 8, 0)] & keep
        fill = _ZERO & ~keep
        return word | fill

    def hexadecimal(self, token: I64, skip: int = 0) -> Numbers:
        """Return each token as a hexadecimal number; ``skip`` characters are a prefix."""
        start, end = self.start[token] + skip, self.end[token]
        value = np.zeros(len(token), np.uint64)
        bad = (end <= start) | (end - start > _LONGEST_HEX)
        for back in (8, 0):
            if back and not bool((end - start > back).any()):
                continue
            part, wrong = _hex_word(self._eight(start, end, back))
            value = value << np.uint64(32) | part
            bad |= wrong
        return Numbers(value, bad)

    def decimal(self, token: I64) -> Numbers:
        """Return each token as a decimal number."""
        start, end = self.start[token], self.end[token]
        value = np.zeros(len(token), np.uint64)
        bad = (end <= start) | (end - start > _LONGEST_DECIMAL)
        for back in (16, 8, 0):
            if back and not bool((end - start > back).any()):
                continue
            part, wrong = _decimal_word(self._eight(start, end, back))
            value = value * np.uint64(100_000_000) + part
            bad |= wrong
        return Numbers(value, bad)

    def number(self, token: I64) -> Numbers:
        """Return each token as a number as in C: ``0x...`` or decimal; ``nil`` is 0."""
        first = self.char(token)
        is_hex = (first == ord("0")) & (self.char(token, 1) == ord("x"))
        if is_hex.all():
            return self.hexadecimal(token, 2)
        value, bad = np.zeros(len(token), np.uint64), np.zeros(len(token), bool)
        nil = (first == ord("n")) & (self.end[token] - self.start[token] == len("nil"))
        for some, convert in ((is_hex, self._prefixed), (~is_hex & ~nil, self.decimal)):
            if some.any():
                part = convert(token[some])
                value[some], bad[some] = part.value, part.bad
        return Numbers(value, bad)

    def _prefixed(self, token: I64) -> Numbers:
        return self.hexadecimal(token, 2)


def _mask(length: npt.NDArray[Any]) -> U64:
    """Return words whose lowest ``length`` bytes are all ones."""
    bits = (length * 8).astype(np.uint64)
    full = bits >= 64
    ones: U64 = (np.uint64(1) << np.where(full, np.uint64(0), bits)) - np.uint64(1)
    return np.where(full, np.uint64(0xFFFFFFFFFFFFFFFF), ones)


def _hex_word(word: U64) -> tuple[U64, Bool]:
    letter = word >> np.uint64(6) & _ONES
    digit = (word & _LOW) + letter * np.uint64(9)
    expected = _ZERO + digit + letter * np.uint64(0x27)
    actual = word | letter * np.uint64(0x20)
    wrong = (
        (expected ^ actual) | (digit & _BIT4) | (((digit + _SIX) >> np.uint64(4) & _ONES) ^ letter)
    )
    v = (digit << np.uint64(4) | digit >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)
    v = (v << np.uint64(8) | v >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
    v = (v << np.uint64(16) | v >> np.uint64(32)) & np.uint64(0x00000000FFFFFFFF)
    return v, wrong != 0


def _decimal_word(word: U64) -> tuple[U64, Bool]:
    digit = word & _LOW
    wrong = ((word & _HIGH) ^ _ZERO) | ((digit + _SIX) & _BIT4)
    v = (digit * np.uint64(10) + (digit >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    v = (v * np.uint64(100) + (v >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    v = (v * np.uint64(10000) + (v >> np.uint64(32))) & np.uint64(0x00000000FFFFFFFF)
    return v, wrong != 0


def key_of(word: bytes) -> np.uint64:
    """Return :meth:`Piece.key` of one word."""
    text = np.frombuffer(word[:15].ljust(16, b"\0"), "<u8")
    factors = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)
    mixed = np.bitwise_xor.reduce(text * factors)
    return np.uint64(mixed ^ (mixed >> np.uint64(29)))


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines of the file, and the number of lines before them."""
    line, rest = 0, b""
    with path.open("rb") as file:
        while block := file.read(PIECE):
            data = rest + block
            cut = data.rfind(b"\n") + 1
            data, rest = data[:cut], data[cut:]
            if data:
                yield line, data
                line += data.count(b"\n")
    if rest:
        yield line, rest + b"\n"


def pieces(path: Path, table: Bool) -> Iterator[Piece]:
    """Yield the file piece by piece, each ending at the end of a line."""
    for line, data in _blocks(path):
        yield Piece(path, line, np.frombuffer(data, np.uint8), table)


def read_pieces(path: Path, table: Bool, read: Callable[[Piece], T]) -> Iterator[T]:
    """Yield what ``read`` makes of each piece, in order; a few pieces are read at a time."""

    def work(line: int, data: bytes) -> T:
        return read(Piece(path, line, np.frombuffer(data, np.uint8), table))

    workers = min(len(os.sched_getaffinity(0)), _MOST_WORKERS)
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for line, data in _blocks(path):
            waiting.append(pool.submit(work, line, data))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

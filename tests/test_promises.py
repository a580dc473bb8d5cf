"""Random sequences of promised memory, as a booted Linux 6.12 answered them.

``data/kernel/promises.txt.gz`` is what ``programs/promises.c`` printed in a machine of 160 MB
where nothing else ran: 250 sequences, each with a mode of overcommit, a ratio or kilobytes,
reserves and a user of its own; after each call its errno and Committed_AS.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import pyalloc as pa

PAGE = 4096
DATA = Path(__file__).parent / "data" / "kernel" / "promises.txt.gz"
HEAD = re.compile(
    r"seq (\d+) mode (\d) ratio (\d+) kbytes (\d+) admin (\d+) user (\d+) uid (\d+) total (\d+)"
    r" swap 0 limit (\d+)"
)
OP = re.compile(r"op (\w+) (-?\d+) (\d+) (\d+) = (\d+) (\d+)")


class Made(NamedTuple):
    """A call: its name and arguments, errno and Committed_AS after it, where its memory is kept."""

    name: str
    a: int
    b: int
    c: int
    error: int
    committed: int
    slot: int


class Sequence:
    """One recorded sequence."""

    def __init__(self, lines: list[str]) -> None:
        found = HEAD.fullmatch(lines[0])
        assert found
        (
            self.number, self.mode, self.ratio, self.kbytes, self.admin, self.user, self.uid,
            self.total, self.limit,
        ) = map(int, found.groups())  # fmt: skip
        end = lines.index(">")
        self.maps = "\n".join(lines[2:end])
        _, brk, _, base = lines[end + 1].split()
        self.brk, self.base = int(brk), int(base)
        self.calls = list(self._calls(lines[end + 2 :]))

    @staticmethod
    def _calls(lines: list[str]) -> Iterator[Made]:
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            if found := OP.fullmatch(line):
                slot = int(after.split()[1]) if after.startswith("slot") else -1
                name, *numbers = found.groups()
                yield Made(name, *map(int, numbers), slot)


def sequences() -> list[Sequence]:
    text = gzip.decompress(DATA.read_bytes()).decode()
    return [Sequence(part.splitlines()) for part in text.split("end 0\n") if part]


class Replay:
    """A sequence on the model."""

    def __init__(self, recorded: Sequence) -> None:
        self.machine = pa.Machine(
            ram=recorded.total << 10,
            swap=0,
            reserved=0,
            kernel="6.12",
            arch="x86_64",
            overcommit_ratio=recorded.ratio or 50,
            overcommit_kbytes=recorded.kbytes,
            admin_reserve_kbytes=recorded.admin,
            user_reserve_kbytes=recorded.user,
        )
        self.process = self.machine.spawn(
            "promises", uid=recorded.uid, maps=recorded.maps, brk=recorded.brk
        )
        others = recorded.base // 4 - self.machine.promises.committed
        self.machine.promises.areas += others  # what all else there was promised
        self.machine.sysctl["vm.overcommit_memory"] = recorded.mode
        self.file = self.process.open(self.machine.file("/bin/hog", 850000), "r")
        self.kept: dict[int, tuple[int, int]] = {}
        self.children: list[pa.Process] = []

    def make(self, call: Made) -> int:
        """Make a call; return its errno."""
        try:
            return getattr(self, call.name)(call) or 0
        except OSError as error:
            return error.errno or 0

    def mmap(self, call: Made) -> None:
        self.kept[call.slot] = self.process.mmap(0, call.c * PAGE, call.a, call.b), call.c

    def file_(self, call: Made) -> None:
        prot, flags = (1, 1) if call.a else (3, 2)
        self.kept[call.slot] = self.process.mmap(0, call.b * PAGE, prot, flags, self.file), call.b

    def prot3(self, call: Made) -> None:
        self.process.mprotect(self.kept[call.a][0], call.b * PAGE, 3)

    def prot1(self, call: Made) -> None:
        self.process.mprotect(self.kept[call.a][0], call.b * PAGE, 1)

    def unmap(self, call: Made) -> None:
        start, pages = self.kept[call.a]
        self.process.munmap(start, call.b * PAGE)
        self.kept[call.a] = start + call.b * PAGE, pages - call.b

    def remap(self, call: Made) -> None:
        start, pages = self.kept[call.a]
        self.kept[call.a] = self.process.mremap(start, pages * PAGE, call.b * PAGE, 1), call.b

    def brk(self, call: Made) -> int:
        wanted = self.process.brk(0) + call.a
        return 0 if self.process.brk(wanted) == wanted else 12

    def touch(self, call: Made) -> int:
        try:
            self.process.touch(self.kept[call.a][0] + call.b * PAGE, 1)
        except pa.MemoryFault:
            return 14  # the recorder had the kernel write there
        return 0

    def fork(self, _: Made) -> None:
        self.children.append(self.process.fork())

    def reap(self, _: Made) -> None:
        self.children.pop().exit()


ALL = sequences()


@pytest.mark.parametrize("first", range(0, len(ALL), 25))
def test_every_promise_is_given_or_refused_as_the_kernel_did(first: int) -> None:
    """errno and Committed_AS after each call, and CommitLimit."""
    for recorded in ALL[first : first + 25]:
        replay = Replay(recorded)
        assert replay.machine.meminfo()["CommitLimit"] == recorded.limit
        for row, call in enumerate(recorded.calls):
            name = "file_" if call.name == "file" else call.name
            error = replay.make(call._replace(name=name))
            found = error, replay.machine.meminfo()["Committed_AS"]
            assert found == (call.error, call.committed), (recorded.number, row, call)


def test_the_recording_holds_refusals_of_every_mode_and_user() -> None:
    """Strict overcommit refuses, the heuristic does, and so on for root and others."""
    assert len(ALL) == 250
    refused = {(s.mode, s.uid, call.name) for s in ALL for call in s.calls if call.error == 12}
    for uid in (0, 1000):
        for name in ("mmap", "fork", "brk", "file", "remap", "prot3"):
            assert (2, uid, name) in refused
        assert (0, uid, "mmap") in refused
    assert not {row for row in refused if row[0] == 1}

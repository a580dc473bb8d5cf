"""What ``pyalloc verify kernel`` once found: each sequence is the same on this host's kernel again.

The descriptors are those of its files: 3 of 64 pages, 4 the same for reading, 5 of 12388 bytes, 6
shared memory of 32 pages, 7 the one of 12388 bytes for writing.
"""

from __future__ import annotations

import pytest
from test_verify_kernel import WORDS, can_verify

from pyalloc.host.kernel import host_kernel
from pyalloc.host.mapped import mapped_files
from pyalloc.host.puppet import Start
from pyalloc.lab.verify.kernel import Case, run_calls
from pyalloc.workload.syscalls import SystemCall

pytestmark = pytest.mark.skipif(not can_verify(), reason="no profile of this host's kernel")
PAGE = 4096
AT = 0x20000000
SHARED, PRIVATE, ANONYMOUS = 0x11, 0x12, 0x20
"""At a fixed place each."""


def mapped(pages: int, prot: int, kind: int, fd: int, first: int = 0) -> tuple[str, ...]:
    return ("mmap", AT, pages * PAGE, prot, kind, fd, first * PAGE)  # type: ignore[return-value]


FOUND = {
    "a child's entries of shared memory are clean": [
        mapped(9, 6, SHARED | ANONYMOUS, -1),
        ("touch", AT, 1, 0),
        ("touch", AT, 1, 1),
        ("madvise", AT + 8 * PAGE, PAGE, 102),
        ("fork",),
    ],
    "a cut file takes private copies with it": [
        mapped(1, 3, PRIVATE, 5),
        ("touch", AT, 1, 1),
        ("ftruncate", 7, 0),
    ],
    "a write makes a folio, and a fault maps all of it": [
        ("write", 7, 2 * PAGE, 42 * PAGE),
        mapped(20, 3, SHARED, 5, 24),
        ("touch", AT, 1, 1),
        ("touch", AT + 19 * PAGE, 1, 1),
    ],
    "what is left of a write decides on the next folio": [
        ("write", 5, 3 * PAGE, 42 * PAGE + 0x6FE),
        mapped(2, 3, SHARED, 5, 44),
        ("touch", AT, 2, 1),
    ],
    "no page comes of reading a hole of shared memory": [
        mapped(18, 5, 0x11, 6, 29),
        ("ftruncate", 6, 46 * PAGE),
        ("read", 6, 1, 45 * PAGE + 739),
        ("touch", AT, 1, 0),
    ],
    "a window takes in all of a folio that more of the file follows": [
        mapped(63, 1, PRIVATE, 4, 5),
        ("write", 3, 4 * PAGE, 64 * PAGE + 0x820),
        ("touch", AT, 49, 0),
    ],
    "a folio that is cut is mapped no more": [
        ("write", 7, 3 * PAGE, 5 * PAGE),
        ("ftruncate", 7, 9 * PAGE),
        mapped(8, 1, SHARED, 5),
        ("touch", AT, 8, 0),
        ("ftruncate", 7, 7 * PAGE),
    ],
    "a folio that is dirty is cut, but not split": [
        mapped(2, 3, SHARED, 5, 17),
        ("write", 5, 6 * PAGE, 12 * PAGE),
        ("ftruncate", 5, 17 * PAGE),
        ("ftruncate", 7, 18 * PAGE),
        ("touch", AT, 1, 1),
        ("ftruncate", 7, 0),
        ("ftruncate", 7, 18 * PAGE),
        ("touch", AT, 1, 1),
    ],
    "a file that grows inside a page writes to it": [
        ("write", 5, 1, 5 * PAGE),
        mapped(6, 3, SHARED, 5),
        ("touch", AT, 1, 0),
    ],
    "a file that is cut inside a page writes to it": [
        ("ftruncate", 5, 2 * PAGE + 100),
        mapped(6, 1, SHARED, 5),
        ("touch", AT, 1, 0),
    ],
    "a read is no next one of a write": [
        ("write", 5, 49 * PAGE + 0x2B1, 8 * PAGE),
        ("ftruncate", 7, 60 * PAGE),
        ("read", 5, 1, 58 * PAGE),
        mapped(12, 4, SHARED | 0x8000, 5, 48),
    ],
    "a file that was just opened has been read nowhere": [
        mapped(6, 1, SHARED, 5),
        ("write", 7, 1, 64 * PAGE),
        ("read", 5, 1, 4 * PAGE + 0x777),
        ("touch", AT + 2 * PAGE, 4, 0),
    ],
    "what is asked for past the end widens the window": [
        ("ftruncate", 7, 60 * PAGE),
        ("read", 5, 40 * PAGE, 50 * PAGE),
        ("read", 5, 1, 40 * PAGE),
        ("ftruncate", 7, 64 * PAGE),
        mapped(64, 1, SHARED, 5),
        ("touch", AT + 40 * PAGE, 24, 0),
    ],
    "a whole page that was read is followed by the second next": [
        ("ftruncate", 7, 60 * PAGE),
        ("read", 5, PAGE, 20 * PAGE),
        ("read", 5, 1, 22 * PAGE),
        ("read", 5, 1, 40 * PAGE),
        ("read", 5, 1, 42 * PAGE),
        mapped(60, 1, SHARED, 5),
        ("touch", AT + 16 * PAGE, 16, 0),
        ("touch", AT + 32 * PAGE, 16, 0),
    ],
    "a page that is cut in a hole is in the cache, but not filled in": [
        ("ftruncate", 7, 20 * PAGE),
        ("ftruncate", 7, 9 * PAGE + 100),
        ("read", 5, PAGE, 8 * PAGE),
        mapped(10, 1, SHARED, 5),
        ("touch", AT + 8 * PAGE, 1, 0),
        ("touch", AT + 9 * PAGE, 1, 0),
    ],
    "advice counts as major what it tried again": [
        ("ftruncate", 7, 9 * PAGE + 100),
        mapped(10, 1, PRIVATE, 5),
        ("madvise", AT + 9 * PAGE, PAGE, 22),
    ],
    "mlock counts as minor what it tried again": [
        ("ftruncate", 7, 9 * PAGE + 100),
        mapped(10, 1, PRIVATE, 5),
        ("mlock", AT + 9 * PAGE, PAGE),
    ],
    "a mark that advice comes to is tried again, too": [
        ("ftruncate", 7, 64 * PAGE),
        ("read", 5, 9 * PAGE, 0),
        mapped(64, 1, PRIVATE, 5),
        ("madvise", AT, 40 * PAGE, 22),
    ],
    "a folio that is dirty keeps what is punched out of it": [
        ("write", 7, 9 * PAGE, PAGE + 0xC0),
        mapped(7, 7, SHARED, 5, 3),
        ("touch", AT, 7, 0),
        ("madvise", AT, PAGE, 9),
        ("touch", AT, 1, 1),
        ("madvise", AT + 2 * PAGE, 5 * PAGE, 9),
        ("touch", AT, 7, 0),
    ],
    "a write over the end of a file needs no zeros there": [
        ("ftruncate", 5, 0x1269A),
        ("write", 7, 0x8000, 0xC924),
        mapped(6, 3, SHARED, 5, 12),
        ("touch", AT + 5 * PAGE, 1, 1),
    ],
    "a hole that is cut stays clean": [
        ("ftruncate", 7, 20 * PAGE),
        mapped(20, 1, SHARED, 5),
        ("touch", AT, 20, 0),
        ("ftruncate", 7, 9 * PAGE + 100),
        ("touch", AT, 10, 0),
    ],
    "what was written to a hole is dirty where it is cut": [
        ("ftruncate", 7, 20 * PAGE),
        ("write", 5, PAGE, 9 * PAGE),
        mapped(20, 3, SHARED, 5),
        ("touch", AT, 20, 0),
        ("touch", AT + 12 * PAGE, 1, 1),
        ("msync", AT, 20 * PAGE, 4),
        ("ftruncate", 7, 12 * PAGE + 100),
        ("ftruncate", 7, 9 * PAGE + 100),
        ("touch", AT, 10, 0),
    ],
    "what was punched out is a hole": [
        mapped(20, 3, SHARED, 3),
        ("madvise", AT + 8 * PAGE, 4 * PAGE, 9),
        ("ftruncate", 3, 9 * PAGE + 100),
        ("touch", AT, 10, 0),
    ],
    "mprotect waits for what it populates": [
        ("ftruncate", 7, 5 * PAGE),
        mapped(5, 1, PRIVATE, 5),
        ("mlock", AT, 4 * PAGE),
        ("mmap", AT + 4 * PAGE, PAGE, 1, PRIVATE | 0x2000, 5, 4 * PAGE),
        ("madvise", AT, 5 * PAGE, 24),
        ("mprotect", AT, 5 * PAGE, 3),
    ],
    "where huge pages are asked for, 4 MB of a file are read": [
        mapped(2, 7, PRIVATE, 5, 4),
        ("madvise", AT, PAGE, 14),
        ("ftruncate", 7, 6 * PAGE),
        ("touch", AT, 2, 1),
    ],
    "a limit is raised beyond this host's hard one": [
        ("setrlimit", 3, 1 << 40),
        ("setrlimit", 3, PAGE),
        ("mlock", AT, PAGE),
    ],
    "a limit is lowered below what is in use": [
        mapped(100, 3, PRIVATE | ANONYMOUS, -1),
        ("setrlimit", 0, 50 * PAGE),
        ("setrlimit", 1, 50 * PAGE),
        ("mprotect", AT, PAGE, 1),
        ("mprotect", AT, PAGE, 3),
        ("mmap", AT, PAGE, 3, PRIVATE | ANONYMOUS, -1, 0),
        ("mmap", AT + 200 * PAGE, PAGE, 1, PRIVATE | ANONYMOUS, -1, 0),
        ("brk", 0),
    ],
}


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("calls", FOUND.values(), ids=FOUND)
def test_what_was_found_once(calls: list[tuple[str, ...]], word: int) -> None:
    made = [SystemCall(name, tuple(map(int, args))) for name, *args in calls]
    start = Start("x86_64" if word == 64 else "i386")
    with mapped_files() as files:
        assert run_calls(Case(start, tuple(made)), host_kernel(), files) == (made, None)

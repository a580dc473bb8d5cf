"""Settings by all their names, and as each generation reads them from the environment."""

from __future__ import annotations

import pytest
from flatkernel import FlatProcess

from pyalloc import engine

MAPS = "7ffff7fbf000-7ffff7fff000 r-xp 0 0 0 x\n7ffffffde000-7ffffffff000 rw-p 0 0 0 [stack]\n"
BRK = 0x555555560000


def process(allocator: str = "glibc-2.36") -> FlatProcess:
    return FlatProcess(allocator, 64, BRK, MAPS)


def grown(start: FlatProcess) -> int:
    """Return the bytes the break moves by for a first small block: 1 page more than the padding."""
    start.call(0, 0, 24, 0)
    return start.heap.brk - BRK


@pytest.mark.parametrize(
    "name", ["top_pad", "glibc.malloc.top_pad", "MALLOC_TOP_PAD_", "M_TOP_PAD"]
)
def test_a_setting_has_several_names(name: str) -> None:
    run = process()
    assert run.heap.tunable(name, 0)
    assert grown(run) == 0x1000


@pytest.mark.parametrize(
    ("allocator", "name"),
    [
        ("glibc-2.36", "top_pads"),
        ("glibc-2.23", "tcache_count"),
        ("glibc-2.12", "arena_max"),
        ("glibc-2.31", "hugetlb"),
    ],
)
def test_a_setting_of_another_generation_is_refused(allocator: str, name: str) -> None:
    assert not process(allocator).heap.tunable(name, 1)


@pytest.mark.parametrize(
    ("allocator", "name", "text", "pages"),
    [
        ("glibc-2.36", "MALLOC_TOP_PAD_", "0", 1),
        ("glibc-2.36", "MALLOC_TOP_PAD_", " 0x2000", 3),
        ("glibc-2.36", "MALLOC_TOP_PAD_", "010000", 2),
        ("glibc-2.36", "MALLOC_TOP_PAD_", "8192 bytes", 3),
        ("glibc-2.41", "MALLOC_TOP_PAD_", "8192 bytes", 33),
        ("glibc-2.23", "MALLOC_TOP_PAD_", "8192 bytes", 3),
        ("glibc-2.23", "MALLOC_TOP_PAD_", "0x2000", 1),
        ("glibc-2.23", "GLIBC_TUNABLES", "glibc.malloc.top_pad=0", 33),
        ("glibc-2.36", "GLIBC_TUNABLES", "glibc.malloc.top_pad=0", 1),
        ("glibc-2.36", "GLIBC_TUNABLES", "x:glibc.malloc.top_pad=0:y", 1),
        ("glibc-2.41", "GLIBC_TUNABLES", "x:glibc.malloc.top_pad=0:y", 33),
        ("glibc-2.36", "GLIBC_TUNABLES", "malloc.top_pad=0", 33),
        ("glibc-2.36", "MALLOC_TOP_PAD", "0", 33),
    ],
)
def test_a_variable_is_read_as_in_its_time(
    allocator: str, name: str, text: str, pages: int
) -> None:
    """Prefixes, trailing text and malformed pairs changed their meaning over the years."""
    run = process(allocator)
    assert run.heap.environment(name, text) == (pages != 33)
    assert grown(run) == pages * 4096


def test_tunables_outrank_variables_in_either_order() -> None:
    for first in (True, False):
        run = process()
        if first:
            run.heap.environment("GLIBC_TUNABLES", "glibc.malloc.top_pad=0")
        run.heap.environment("MALLOC_TOP_PAD_", "65536")
        if not first:
            run.heap.environment("GLIBC_TUNABLES", "glibc.malloc.top_pad=0")
        assert grown(run) == 0x1000


def test_the_last_value_of_a_name_counts_even_if_it_is_refused() -> None:
    """The loader keeps one value a name; malloc then finds it too large, and keeps its own."""
    run = process()
    line = "glibc.malloc.tcache_max=8:glibc.malloc.tcache_max=4294967299"
    assert not run.heap.environment("GLIBC_TUNABLES", line)
    assert run.heap.settings().tcache_limit == process().heap.settings().tcache_limit
    line = "glibc.malloc.top_pad=0:glibc.malloc.top_pad=65536:glibc.malloc.perturb=999"
    assert run.heap.environment("GLIBC_TUNABLES", line)
    assert grown(run) == 0x11000


def test_huge_pages_move_the_break_by_themselves() -> None:
    run = process()
    assert run.heap.environment("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    run.call(0, 0, 24, 0)
    assert run.heap.brk % (2 << 20) == 0


def test_a_negative_number_of_mappings_allows_none() -> None:
    run = process()
    run.call(10, 0, -1 & run.mask, -4 & run.mask)
    assert BRK < run.call(0, 0, 1 << 20, 0) < run.heap.brk


def test_an_allocator_without_settings_ignores_the_environment() -> None:
    heap = engine.Heap("first-fit", 8, BRK, 1)
    assert not heap.environment("MALLOC_TOP_PAD_", "0")

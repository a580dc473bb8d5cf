"""Address spaces change as the kernel changes them."""

import errno
from typing import Any

import pytest
import vmareplay

from pyalloc.kernel.abi import MAP, PROT
from pyalloc.kernel.layout import default_layout, layout_from_maps
from pyalloc.kernel.procfs import maps_text
from pyalloc.kernel.profiles import PROFILES, KernelProfile, kernel_profile
from pyalloc.kernel.vma import AddressSpace

RW = int(PROT.READ | PROT.WRITE)
ANON = int(MAP.PRIVATE | MAP.ANONYMOUS)
PAGE = 4096


RECORDED = [
    pytest.param(sequence, meta, id=sequence["id"])
    for name in ("vma_x86_64.jsonl.gz", "vma_i386.jsonl.gz")
    for meta, sequences in [vmareplay.load(name)]
    for sequence in sequences
]


@pytest.mark.parametrize(("sequence", "meta"), RECORDED)
def test_a_recorded_process_comes_out_the_same(
    sequence: dict[str, Any], meta: dict[str, Any]
) -> None:
    """Every result, every maps text and every size is the kernel's, call by call."""
    assert vmareplay.first_difference(sequence, meta) is None


@pytest.fixture(params=sorted(PROFILES), ids="-".join)
def profile(request: pytest.FixtureRequest) -> KernelProfile:
    found: KernelProfile = PROFILES[request.param]
    return found


def test_every_profile_has_a_default_program_that_can_map(profile: KernelProfile) -> None:
    """Two adjacent mappings become one area, which unmapping its middle cuts in two."""
    space = AddressSpace(profile, default_layout(profile))
    before = maps_text(space)
    first = space.mmap(0, 2 * PAGE, RW, ANON)
    second = space.mmap(0, PAGE, RW, ANON)
    low = min(first, second)
    assert abs(first - second) in (PAGE, 2 * PAGE)
    assert space.at(low).pages == 3  # type: ignore[union-attr]
    space.munmap(low + PAGE, PAGE)
    assert space.at(low + PAGE) is None
    space.check()
    space.munmap(low, 3 * PAGE)
    assert maps_text(space) == before


def test_a_maps_text_survives_the_round_trip(profile: KernelProfile) -> None:
    """The areas a text describes print as that text."""
    text = maps_text(AddressSpace(profile, default_layout(profile)))
    layout = layout_from_maps(text, profile)
    assert maps_text(AddressSpace(profile, layout)) == text


def test_the_break_moves_by_bytes_and_maps_by_pages() -> None:
    """The heap appears behind bss and goes again."""
    profile = kernel_profile("6.12")
    space = AddressSpace(profile, default_layout(profile))
    start = space.brk(0)
    assert space.brk(start + 5) == start + 5
    assert "[heap]" in maps_text(space)
    assert space.brk(start) == start
    assert "[heap]" not in maps_text(space)


def test_a_bad_range_is_einval() -> None:
    """An unaligned address names no page."""
    profile = kernel_profile("6.12")
    space = AddressSpace(profile, default_layout(profile))
    with pytest.raises(OSError, match="Invalid argument") as caught:
        space.munmap(1, PAGE)
    assert caught.value.errno == errno.EINVAL

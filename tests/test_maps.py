"""Reading maps: whole texts, texts with fewer columns, texts that were cut short."""

from __future__ import annotations

from pathlib import Path

import pytest

import pyalloc as pa
from pyalloc.kernel.maps import Area, area_of, parse_maps, whole_areas

MAPS = """\
08048000-08049000 r-xp 00000000 03:02 123        /home/me/my prog
bffeb000-c0000000 rwxp bffeb000 00:00 0
7ffff7fbf000-7ffff7fc0000 rw-s 00001000 00:01 1066                       /memfd:x (deleted)
"""


def test_a_line_is_a_record() -> None:
    prog, stack, shared = parse_maps(MAPS)
    assert prog == Area(0x8048000, 0x8049000, "r-xp", 0, "03:02", 123, "/home/me/my prog")
    assert (stack.length, stack.name, stack.offset) == (0x15000, "", 0xBFFEB000)
    assert (shared.permissions, shared.name) == ("rw-s", "/memfd:x (deleted)")
    assert [area.executable for area in (prog, stack, shared)] == [True, True, False]
    assert [area.promised for area in (prog, stack, shared)] == [False, True, False]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("08048000-08049000 r-xp", ""),
        ("08048000-08049000 r-xp 00000000", ""),
        ("  08048000-08049000 r-xp 00000000 03:02 123", ""),
        ("08048000-08049000 r-xp /bin/prog", "/bin/prog"),
        ("08048000-08049000 r-xp 00000000 [heap]  ", "[heap]"),
    ],
)
def test_what_a_line_leaves_out_is_zero(line: str, name: str) -> None:
    """People quote maps without the columns they do not care for."""
    area = area_of(line)
    assert area is not None
    assert (area.start, area.end, area.offset, area.name) == (0x8048000, 0x8049000, 0, name)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Rss:                   4 kB",
        "08048000 08049000 r-xp 00000000 03:02 123",
        "08048000-08049000 rwx 00000000 03:02 123",
        "08048000-08049000 r-xq 00000000 03:02 123",
        "8048G00-08049000 r-xp 00000000 03:02 123",
    ],
)
def test_other_lines_are_none(line: str) -> None:
    assert area_of(line) is None


def test_a_line_that_is_none_is_named() -> None:
    with pytest.raises(pa.ArgumentError, match=r"line 2 is not a line of /proc/PID/maps: 'nonse"):
        parse_maps(MAPS.splitlines()[0] + "\nnonsense\n")
    assert len(parse_maps("\n" + MAPS + "\n  \n")) == 3


def test_of_a_text_cut_short_the_whole_lines_count() -> None:
    """Wherever the cut is: half a line may look like a whole one with another name."""
    everything = list(parse_maps(MAPS))
    for end in range(len(MAPS) + 1):
        assert list(whole_areas(MAPS[:end])) == everything[: MAPS.count("\n", 0, end)]


def test_maps_of_this_kernel_and_of_a_simulated_one_are_read_alike() -> None:
    text = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    assert tuple(whole_areas(text)) == parse_maps(text)
    process = pa.Machine(kernel="6.12", arch="x86_64").spawn(maps=text)
    real = [area for area in parse_maps(text) if area.name != "[vsyscall]"]
    ours = [area for area in parse_maps(str(process.maps())) if area.name != "[vsyscall]"]
    assert [(a.start, a.end, a.permissions, a.name) for a in ours] == [
        (a.start, a.end, a.permissions, a.name) for a in real
    ]

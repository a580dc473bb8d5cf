"""The article's programs as a 6.18 kernel and glibc 2.36 ran them, with and without limits."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import pyalloc as pa

TRUTH = Path(__file__).parent / "data" / "kernel" / "article.json.gz"


@cache
def truth() -> dict[str, Any]:
    with gzip.open(TRUTH, "rt", encoding="utf-8") as file:
        data: dict[str, Any] = json.load(file)
    return data


def name_of(number: int) -> str:
    run = truth()["runs"][number]
    return f"{run['start']}-{run['mode']}-{run['chunk']}-{run['ulimit_kb']}"


def as_recorded(line: str) -> str:
    """Return a line of maps without the file's numbers."""
    span, rights, offset, _, inode, *name = line.split()
    return " ".join([span, rights, offset, *(["00:00 0"] if inode == "0" else []), *name])


def run_of(run: dict[str, Any]) -> tuple[pa.Process, int]:
    """Ask for blocks until NULL; return the process and how many it got."""
    arch = "x86_64" if run["start"] == "64" else "i386"
    machine = pa.Machine(ram="24684092K", swap=0, kernel="6.18", arch=arch, cpus=2)
    start, limit = truth()["starts"][run["start"]], run["ulimit_kb"]
    process = machine.spawn(
        "article",
        maps="\n".join(start["maps"]),
        brk=start["brk"],
        rlimit_as=limit and limit << 10,
    )
    if run["start"].startswith("32-static"):
        process.sbrk(0xC80)  # where the C library of a static program puts its thread's own data
    count, mode, size = 0, run["mode"], run["chunk"]
    while block := process.calloc(1, size) if mode == "c" else process.malloc(size):
        count += 1
        if mode == "b":
            process.touch(block, size)
    return process, count


@pytest.mark.parametrize("number", range(len(truth()["runs"])), ids=name_of)
def test_each_program_ends_where_it_really_ended(number: int) -> None:
    """The count of blocks, each line of the map, and every size in status are the kernel's."""
    run = truth()["runs"][number]
    process, count = run_of(run)
    assert count == run["count"]
    lines = [as_recorded(line) for line in str(process.maps()).splitlines()]
    assert lines == run["maps"]
    status = process.status()
    tables = run["status"].pop("VmPTE")  # it ran through its libraries, which have tables, too
    assert {name: status[name] for name in run["status"]} == run["status"]
    assert tables - 4 <= int(status["VmPTE"]) <= tables


KILLED = {
    # RAM, swap in MB: the last block that was filled, run by run
    (32, 0): {31},
    (33, 0): {32},
    (200, 0): {198},
    (32, 96): {126, 127},
    (64, 64): {126, 127},
    (64, 256): {316, 317},
    (96, 300): {393},
    (100, 50): {148},
    (128, 512): {635, 636},
}
"""Program B in a memory cgroup of Linux 6.18: where the OOM killer ended it."""


def own_pages(maps: list[str]) -> list[int]:
    """Return where a program writes to its own: at the end of the stack, at the start of data."""
    found = []
    for line in maps:
        area, permissions = line.split()[:2]
        start, end = (int(address, 16) for address in area.split("-"))
        if permissions.startswith("rw"):
            found.append(end - 4096 if line.endswith("[stack]") else start)
    return found


def filled_until_killed(process: pa.Process, own: list[int]) -> int:
    """Return how many megabytes it could fill; it needs its ``own`` to tell of each."""
    for count in range(4096):
        block = process.malloc(1 << 20)
        try:
            process.touch(block, 1 << 20)
            for page in own:
                process.touch(page, 1)
        except pa.ProcessKilled:
            return count
    return 4096


@pytest.mark.parametrize("size", KILLED, ids=lambda size: f"{size[0]}+{size[1]}")
def test_b_is_killed_where_it_really_was(size: tuple[int, int]) -> None:
    """To the block: page tables, relocated pages, and pages that hold a slot and a frame count."""
    machine = pa.Machine(ram="2G", swap="1G", kernel="6.18", arch="i386", cpus=2)
    limit = machine.cgroup("b", memory_max=f"{size[0]}M", swap_max=f"{size[1]}M")
    start = truth()["starts"]["32-nopie"]
    process = machine.spawn(
        "article", maps="\n".join(start["maps"]), brk=start["brk"], cgroup=limit
    )
    count = filled_until_killed(process, own_pages(start["maps"]))
    assert count in KILLED[size]

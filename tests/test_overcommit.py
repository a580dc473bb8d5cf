"""The kernel's recorded answers to overcommit questions are the policy's."""

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pyalloc as pa
from pyalloc.errors import ArgumentError
from pyalloc.kernel.overcommit import (
    OVERCOMMIT_2_6_11,
    OVERCOMMIT_2_6_18,
    OVERCOMMIT_6_12,
    MemoryCounts,
    Overcommit26,
    OvercommitSettings,
    commit_limit,
)

DATA = Path(__file__).parent / "data" / "kernel"
ALWAYS_CHARGED = frozenset(
    {"anon", "shared", "shared_ro", "file_priv_rw", "stackflag", "brk", "mprotect", "mremap"}
)
CHARGED_IN_MODE_2 = frozenset({"anon_nr", "shared_nr", "file_priv_rw_nr", "mprotect_nr"})


def load(name: str) -> Any:
    full = os.environ.get("PYALLOC_TRUTH")
    path = Path(full) / "kernel" / name if full else DATA / name
    return json.loads(gzip.decompress(path.read_bytes()))


RUNS = load("overcommit.json.gz")["runs"]


def settings_of(run: dict[str, Any]) -> OvercommitSettings:
    return OvercommitSettings(**run["sysctl"])


def counts_of(run: dict[str, Any], row: dict[str, Any], committed: int) -> MemoryCounts:
    return MemoryCounts(
        total_ram=run["MemTotal_kb"] // 4,
        total_swap=run["SwapTotal_kb"] // 4,
        committed=committed // 4,
        total_vm=row["total_vm"],
    )


PROBED = [
    pytest.param(run, id=f"{run['label']}-{run['user']}") for run in RUNS if "MemTotal_kb" in run
]


def is_charged(kind: str, mode: int) -> bool:
    return kind in ALWAYS_CHARGED or (mode == 2 and kind in CHARGED_IN_MODE_2)


@pytest.mark.parametrize("run", PROBED)
def test_each_probe_gets_the_kernel_s_answer(run: dict[str, Any]) -> None:
    """A request of any kind passes or fails as recorded."""
    settings = settings_of(run)
    wrong = []
    for row in run["results"]:
        if row.get("cmd") != "probe":
            continue
        pages = row["pages"] if is_charged(row["kind"], settings.overcommit_memory) else 0
        counts = counts_of(run, row, row["Committed_AS"])
        if row["kind"].startswith("mprotect"):  # the range is mapped before it is charged
            counts = replace(counts, total_vm=counts.total_vm + row["pages"])
        if row["kind"] == "mremap":  # grown from one page: only the difference is charged
            counts = replace(counts, total_vm=counts.total_vm + 1, committed=counts.committed + 1)
            pages -= 1
        root = run["user"] == "root"
        allowed = not pages or OVERCOMMIT_6_12.allows(settings, counts, pages, root=root)
        if allowed != (row["errno"] == 0):
            wrong.append(row)
    assert not wrong


@pytest.mark.parametrize("run", PROBED)
def test_the_limit_is_where_the_kernel_has_it(run: dict[str, Any]) -> None:
    """The largest request that passed passes, one page more does not."""
    for row in run["results"]:
        if row.get("cmd") != "bound" or row["max_ok_pages"] is None:
            continue
        if row["kind"] != "anon":
            continue
        root = run["user"] == "root"
        pages = row["max_ok_pages"]
        settings = settings_of(run)
        ok = counts_of(run, row, row["cas_at_last_ok"])
        fail = counts_of(run, row, row["cas_at_last_fail"])
        assert OVERCOMMIT_6_12.allows(settings, ok, pages, root=root)
        if settings.overcommit_memory != 1:
            assert not OVERCOMMIT_6_12.allows(settings, fail, pages + 1, root=root)


@pytest.mark.parametrize("run", PROBED)
def test_commit_limit_is_the_kernel_s(run: dict[str, Any]) -> None:
    """CommitLimit in kB as /proc/meminfo had it."""
    settings = settings_of(run)
    limit = commit_limit(settings, run["MemTotal_kb"] // 4, run["SwapTotal_kb"] // 4)
    for row in run["results"]:
        if "CommitLimit" in row:
            assert limit * 4 == row["CommitLimit"]


def test_the_article_s_commit_limit() -> None:
    """50 % of 256 MB of RAM plus 256 MB of swap is 384 MB."""
    assert commit_limit(OvercommitSettings(), 65536, 65536) * 4096 == 384 << 20


def test_mode_0_refuses_one_gigabyte_on_a_small_machine_in_every_era() -> None:
    """1 GB on 16 MB of RAM and 64 MB of swap fails whatever the kernel, unlike the article says."""
    counts = MemoryCounts(
        total_ram=4096, total_swap=16384, committed=0, total_vm=100, free_ram=4096, free_swap=16384
    )
    for policy in (OVERCOMMIT_2_6_11, OVERCOMMIT_2_6_18, OVERCOMMIT_6_12):
        assert not policy.allows(OvercommitSettings(), counts, 262144, root=True)
        always = OvercommitSettings(overcommit_memory=1)
        assert policy.allows(always, counts, 262144, root=True)


def test_2_6_mode_0_keeps_a_share_from_users_only() -> None:
    """Root may take what is free but one page; others 1/32 less."""
    counts = MemoryCounts(
        total_ram=4096, total_swap=0, committed=0, total_vm=100, page_cache=320, free_ram=640
    )
    policy = OVERCOMMIT_2_6_11
    assert policy.allows(OvercommitSettings(), counts, 959, root=True)
    assert not policy.allows(OvercommitSettings(), counts, 960, root=True)
    assert policy.allows(OvercommitSettings(), counts, 929, root=False)
    assert not policy.allows(OvercommitSettings(), counts, 930, root=False)


FULL = MemoryCounts(
    total_ram=4096,
    total_swap=4096,
    committed=0,
    total_vm=100,
    page_cache=640,
    free_swap=320,
    reclaimable_slab=64,
    free_ram=960,
    total_reserve=96,
)


@pytest.mark.parametrize(
    ("policy", "root", "most"),
    [
        (OVERCOMMIT_2_6_11, True, 640 + 320 + 64 + 960 - 1),
        (OVERCOMMIT_2_6_11, False, (1024 - 32) + (960 - 30) - 1),
        (OVERCOMMIT_2_6_18, True, 1024 + (960 - 96) - 1),
        (OVERCOMMIT_2_6_18, False, (1024 - 32) + (864 - 27) - 1),
    ],
)
def test_2_6_mode_0_counts_what_could_be_freed(policy: Overcommit26, root: bool, most: int) -> None:
    """Page cache, free swap, slab and free pages, each with its share for root (mm/mmap.c)."""
    guess = OvercommitSettings()
    assert policy.allows(guess, FULL, most, root=root)
    assert not policy.allows(guess, FULL, most + 1, root=root)


@pytest.mark.parametrize("root", [True, False])
def test_2_6_18_mode_0_has_no_free_page_below_the_reserve(root: bool) -> None:
    """Then only what could be freed counts, and more than that is refused at once."""
    guess, could_be_freed = OvercommitSettings(), 1024 if root else 992
    for free in (0, 95, 96):
        counts = replace(FULL, free_ram=free)
        assert OVERCOMMIT_2_6_18.allows(guess, counts, could_be_freed - 1, root=root)
        assert not OVERCOMMIT_2_6_18.allows(guess, counts, could_be_freed, root=root)
    counts = replace(FULL, free_ram=97)
    assert OVERCOMMIT_2_6_18.allows(guess, counts, could_be_freed, root=root)
    assert not OVERCOMMIT_2_6_18.allows(guess, counts, could_be_freed + 1, root=root)


def test_huge_pages_set_aside_are_no_part_of_the_limit() -> None:
    counts = MemoryCounts(total_ram=6400, total_swap=100, committed=0, total_vm=0, hugetlb=1024)
    strict = OvercommitSettings(overcommit_memory=2)
    limit = (6400 - 1024) // 2 + 100
    assert commit_limit(strict, 6400, 100, hugetlb=1024) == limit
    assert OVERCOMMIT_2_6_18.allows(strict, counts, limit - 1, root=True)
    assert not OVERCOMMIT_2_6_18.allows(strict, counts, limit, root=True)
    strict = replace(strict, user_reserve_kbytes=0, admin_reserve_kbytes=0)
    assert OVERCOMMIT_6_12.allows(strict, counts, limit - 1, root=True)
    assert not OVERCOMMIT_6_12.allows(strict, counts, limit, root=True)


def test_2_6_mode_2() -> None:
    """Non-root keeps 1/32 of the RAM part, everybody 1/32 of the process's own size."""
    counts = MemoryCounts(total_ram=6400, total_swap=100, committed=0, total_vm=320)
    strict = OvercommitSettings(overcommit_memory=2)
    limit = 3200 + 100 - 10
    assert OVERCOMMIT_2_6_18.allows(strict, counts, limit - 1, root=True)
    assert not OVERCOMMIT_2_6_18.allows(strict, counts, limit, root=True)
    assert OVERCOMMIT_2_6_18.allows(strict, counts, limit - 101, root=False)
    assert not OVERCOMMIT_2_6_18.allows(strict, counts, limit - 100, root=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"overcommit_memory": 3}, "0, 1 or 2"), ({"overcommit_ratio": -1}, "not be negative")],
)
def test_impossible_settings_are_refused(settings: dict[str, int], message: str) -> None:
    """A wrong sysctl gets one line that says which and why."""
    with pytest.raises(ArgumentError, match=message):
        OvercommitSettings(**settings)


def test_a_heap_feels_a_sysctl_at_once() -> None:
    """What the rules allowed a heap before they changed does not hold any more."""
    machine = pa.Machine(ram="64M", swap=0, kernel="6.18", arch="x86_64")
    process = machine.spawn(uid=1000)
    process.malloc(24)
    machine.sysctl["vm.overcommit_memory"] = 2
    machine.sysctl["vm.overcommit_ratio"] = 1
    assert sum(bool(process.malloc(100_000)) for _ in range(100)) < 10

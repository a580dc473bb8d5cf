"""What a scan of memory misses on this host, and on the model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_host import can_build

from pyalloc.cli import main
from pyalloc.errors import ArgumentError
from pyalloc.host import scan as host_scan
from pyalloc.host.box import box
from pyalloc.host.compile import HostError
from pyalloc.host.kernel import HostKernel, host_kernel
from pyalloc.host.scan import Bed, Passes, Rates, scanner
from pyalloc.host.settings import Settings
from pyalloc.host.turn import turn
from pyalloc.host.undo import Undertaker
from pyalloc.lab.verify.reclaim import (
    MEASURES,
    Comparison,
    ReclaimVerdict,
    bed_of,
    model_passes,
    verify_reclaim,
)
from pyalloc.report.verify import reclaim_lines
from pyalloc.workload.scans import MODES, PATTERNS, Choices, Scan, random_scan

MB = 1 << 20
HOST = HostKernel("6.18.0", "6.18", 1 << 30, 0, huge_pages=False, exact_rss=True)
SMALL = Choices(megabytes=(4,))
SWAPPINESS = Path("/proc/sys/vm/swappiness")


def can_scan() -> bool:
    """Whether this process may make a memory cgroup with swap, and change settings."""
    try:
        host_kernel()
        with scanner(), box(16 * MB, 16 * MB, own_swap=True):
            return can_build(8)
    except HostError:
        return False


real = pytest.mark.skipif(not can_scan(), reason="memory cannot be scanned here")


# --- scans


def test_a_scan_is_the_seed_s() -> None:
    """The same seed gives the same scan and orders; sixty use every mode and pattern."""
    assert random_scan(5) == random_scan(5) != random_scan(6)
    one, other = ([order.tolist() for order, _ in random_scan(9).orders()] for _ in range(2))
    assert one == other
    scans = [random_scan(seed) for seed in range(60)]
    assert {scan.mode for scan in scans} == set(MODES) == set(MEASURES)
    assert {scan.pattern for scan in scans} == set(PATTERNS)
    assert all(16 <= scan.megabytes <= 48 and 0.5 <= scan.factor <= 2 for scan in scans)


def test_what_is_held_fixed_leaves_the_rest() -> None:
    """A scan that differs can be made again with one thing else."""
    scan = random_scan(3)
    assert random_scan(3, Choices(swappiness=(7,))) == replace(scan, swappiness=7)
    assert not any(random_scan(seed, Choices(mode=("fread",))).write for seed in range(20))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_pass_accesses_as_many_pages_as_there_are(pattern: str) -> None:
    """The first fills memory and writes; a file is scanned in the scan's own order at once."""
    scan = Scan(1, "anon", pattern, 4, 1.5, write=False, passes=3)
    passes = list(scan.orders())
    assert [(len(order), write) for order, write in passes] == [
        (1536, True),
        (1536, False),
        (1536, False),
    ]
    assert passes[0][0].tolist() == list(range(1536))
    first, write = next(replace(scan, mode="fmap").orders())
    assert not write
    assert (first.tolist() == list(range(1536))) == (pattern in {"seq", "back"})


# --- verdicts


def passes_of(*rates: float, killed: bool = False) -> Passes:
    """Return passes that read and swapped in so much, and a first one that filled."""
    return Passes(
        (Rates(1, 0, 0, 0), *(Rates(0, rate, rate, rate) for rate in rates)), killed=killed
    )


KILLED = Passes((), killed=True)
FILLED = Passes((Rates(1, 0, 0, 0),), killed=True)


@pytest.mark.parametrize(
    ("here", "model", "answer", "off"),
    [
        ([0.2, 0.6], 0.4, "within", 0),
        ([0.2, 0.3], 0.34, "within", 0),
        ([0.2, 0.3], 0.16, "within", 0),
        ([0.2, 0.3], 0.4, "outside", 0.05),
        ([0.2, 0.3], 0.1, "outside", 0.05),
        ([10.0, 10.0], 10.4, "within", 0),
        ([10.0, 10.0], 9.3, "outside", 0.2),
    ],
)
def test_the_model_may_be_where_this_host_was_or_close(
    here: list[float], model: float, answer: str, off: float
) -> None:
    """Between two of its runs, or within 0.05 of one: of an access, or of what one reads."""
    scan = Scan(0, "fmap", "rand", 16, 1.5, write=False)
    found = Comparison(scan, tuple(map(passes_of, here)), passes_of(model))
    assert found.answer == answer
    assert found.off == pytest.approx(off)


@pytest.mark.parametrize(
    ("here", "model", "answer", "kills"),
    [
        ([KILLED, FILLED], passes_of(0.3), "open", 2),
        ([KILLED, passes_of(0.3)], passes_of(0.3), "within", 1),
        ([passes_of(0.3, killed=True)], passes_of(0.3), "within", 1),
        ([passes_of(0.3)], KILLED, "outside", 0),
        ([KILLED], FILLED, "within", 1),
    ],
)
def test_a_scan_that_was_killed_counts_as_far_as_it_came(
    here: list[Passes], model: Passes, answer: str, kills: int
) -> None:
    """The OOM killer in the middle is no difference, but where it is the model's alone."""
    found = Comparison(Scan(0, "anon", "seq", 16, 1.5, write=True), tuple(here), model)
    assert (found.answer, found.kills) == (answer, kills)
    verdict = ReclaimVerdict("6.18.0", "6.18", len(here), 0.05, (found,))
    assert verdict.agrees == (answer != "outside")
    text = "\n".join(reclaim_lines(verdict))
    assert ("killed" in text) == (not found.rates or found.rate is None)
    assert (f"ended {kills} of {len(here)}" in text) == bool(kills)
    assert json.loads(json.dumps(verdict.to_dict()))["open"] == (answer == "open")


def test_the_model_is_as_itself_and_not_as_another() -> None:
    """In place of the host: the model, and one that misses 0.2 more."""

    def worse(scan: Scan) -> Passes:
        rates = (Rates(*(each + 0.2 for each in one)) for one in model_passes(scan, HOST).rates)
        return Passes(tuple(rates))

    options: dict[str, Any] = {"choices": SMALL, "host": HOST, "passes": 3}
    equal = verify_reclaim(3, real=lambda scan: model_passes(scan, HOST), **options)
    assert equal.agrees
    assert set(equal.distances().values()) == {0}
    other = verify_reclaim(3, real=worse, repeats=1, **options)
    assert other.count("outside") == len(other.comparisons) == 3
    lines = list(reclaim_lines(other))
    assert "each made once" in lines[0]
    assert all(line.endswith("outside 0.150") for line in lines[2:5])
    assert max(map(len, lines)) <= 100


def test_the_longest_line_fits() -> None:
    """A hundred columns, whatever is scanned, and with all there is in the summary."""
    scan = Scan(123456, "", "hotcold", 1024, 1.95, write=True, page_cluster=31, swappiness=200)
    found = tuple(
        Comparison(replace(scan, mode=mode), (passes_of(10.1), passes_of(11.1)), passes_of(99.0))
        for mode in MODES
    )
    verdict = ReclaimVerdict("6.18.44", "6.18", 2, 0.05, found)
    assert max(map(len, reclaim_lines(verdict))) <= 100


@pytest.mark.parametrize("mode", MODES)
def test_a_scan_with_room_misses_nothing_on_the_model(mode: str) -> None:
    """Once it is there, it stays; what the file's last windows hold beyond it is read once."""
    scan = Scan(1, mode, "seq", 8, 0.6, write=mode != "fread", passes=3)
    rates = model_passes(scan, HOST).rates
    assert len(rates) == 3
    assert [getattr(each, MEASURES[mode]) for each in rates[1:]] == [0, 0]
    assert (rates[0].read > 0) == bed_of(scan).on_file


# --- what cannot be done


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--scans 0", "--scans must be 1 or more"),
        ("--repeats 0", "--repeats must be 1 or more"),
        ("--passes 1", "--passes must be 2 or more"),
        ("--mode disk", "--mode"),
        ("--pattern zip", "--pattern"),
        ("--limit 3", "--limit must be 4 to 1024"),
        ("--factor 5", "--factor must be 0.1 to 4"),
        ("--access run", "--access"),
        ("--page-cluster 32", "--page-cluster must be 0 to 31"),
        ("--swappiness 201", "--swappiness must be 0 to 200"),
        ("--within nan", "--within must be a number, 0 or more"),
        ("--seed -1", "--seed must be 0 or more"),
    ],
)
def test_an_option_that_is_wrong_is_told(
    arguments: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """In one line that names it."""
    assert main(["verify", "reclaim", *arguments.split()]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_nothing_to_compare_is_an_error() -> None:
    """A scan, a repeat and a second pass are needed."""
    for count, repeats, passes in ((0, 1, 2), (1, 0, 2), (1, 1, 1)):
        with pytest.raises(ArgumentError, match="needed"):
            verify_reclaim(count, repeats=repeats, passes=passes)


def test_only_root_can(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Anybody else is told so in a line."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("pyalloc.lab.verify.reclaim.host_kernel", lambda: HOST)
    assert main(["verify", "reclaim"]) == 2
    assert capfd.readouterr().err == ("pyalloc: only root can make a memory cgroup with limits\n")


def test_other_ways_to_reclaim_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The multi-generation LRU and zswap, unless they are off."""
    setting = tmp_path / "enabled"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(host_scan, "_FOREIGN", {setting: "another LRU reclaims here"})
    setting.write_text("0x0007\n")
    with pytest.raises(HostError, match="another LRU reclaims here"), scanner():
        pass
    for off in ("0x0000\n", "N\n"):
        setting.write_text(off)
        host_scan._refuse_foreign_reclaim()


def test_settings_come_back(tmp_path: Path) -> None:
    """As they were before the first change; one that is not there is told."""
    setting = tmp_path / "swappiness"
    setting.write_text("60\n")
    with Undertaker() as undertaker:
        settings = Settings(undertaker)
        for value in (1, 200):
            settings.set(setting, value)
            assert setting.read_text() == str(value)
        with pytest.raises(HostError, match="no-such cannot be set to 3 here: No such file"):
            settings.set(tmp_path / "no-such", 3)
    assert setting.read_text() == "60\n"


# --- this host


def settings_at_rest() -> list[str]:
    """Return what scans change, when nobody scans: tests may run beside each other."""
    with turn():
        return [
            Path("/proc/sys/vm", name).read_text("ascii") for name in ("swappiness", "page-cluster")
        ]


def left_behind(pid: int) -> list[str]:
    """Return what a process has for its scans: two files, one of which is swapped to."""
    names = (f"pyalloc-swap-{pid}", f"pyalloc-scan-{pid}")
    folders = ("/var/tmp", tempfile.gettempdir())  # noqa: S108 - to look into
    files = [path for folder in folders for name in names if (path := Path(folder, name)).exists()]
    swaps = [word for word in Path("/proc/swaps").read_text("ascii").split() if names[0] in word]
    return [*map(str, files), *swaps]


@real
def test_the_command_prints_its_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    """As text and as JSON; the settings are as before, and no file is left."""
    before = settings_at_rest()
    fast = "--scans 1 --repeats 2 --passes 3 --mode anon --limit 8 --access write --swappiness 55"
    command = ["verify", "reclaim", *fast.split(), "--pattern", "rand", "--factor", "1.5"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "1 within 0.05 of an access, 0 outside" in out
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["reclaim"]
    [one] = found["comparisons"]
    assert one["scan"]["swappiness"] == 55
    assert len(one["real"]) == 2
    assert 0.2 < min(one["real"]) < one["model"] + 0.05
    assert settings_at_rest() == before
    assert left_behind(os.getpid()) == []


@real
@pytest.mark.parametrize("mode", ["fread", "fmap", "fmapr", "shm", "anon0"])
def test_a_scan_with_room_misses_nothing_here(mode: str) -> None:
    """In the first pass it comes: from the file, or as new pages."""
    scan = Scan(1, mode, "seq", 8, 0.6, write=mode != "fread", passes=3)
    with scanner() as here:
        rates = here.scan(bed_of(scan), scan.orders()).rates
    assert [getattr(each, MEASURES[mode]) for each in rates[1:]] == [0, 0]
    assert rates[0].read == pytest.approx(model_passes(scan, host_kernel()).rates[0].read, abs=0.02)


@real
def test_the_oom_killer_in_the_middle_ends_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too little swap: the pass before it counts, those after it are not made."""
    monkeypatch.setattr(Bed, "bytes_swap", 4 * MB)
    orders = [(np.arange(64), True), (np.arange(8192), True), (np.arange(64), True)]
    with scanner() as here:
        found = here.scan(Bed("anon", 8192, 8 * MB), orders)
    assert found.killed
    assert len(found.rates) == 1
    assert found.rates[0].minor == pytest.approx(1, abs=0.05)


@real
def test_an_interrupt_takes_everything_back() -> None:
    """Ctrl-C in the middle of a scan: program, cgroup, swap and settings."""
    before = settings_at_rest()

    def orders() -> Iterator[tuple[Any, bool]]:
        yield np.arange(64), True
        assert SWAPPINESS.read_text("ascii").strip() == "123"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), scanner() as here:
        here.scan(Bed("anon", 1024, 8 * MB, swappiness=123), orders())
    assert settings_at_rest() == before
    assert left_behind(os.getpid()) == []


@real
def test_a_crash_takes_everything_back() -> None:
    """Killed without a word while it scans, the process is followed by its undertaker."""
    before = settings_at_rest()
    command = "verify reclaim --swappiness 123 --mode fmapr --pattern rand --factor 2 --scans 1"
    with subprocess.Popen(
        [sys.executable, "-P", "-c", "from pyalloc.cli import main; main()", *command.split()],
        stdout=subprocess.DEVNULL,
    ) as child:
        await_that(lambda: len(left_behind(child.pid)) == 3)
        child.send_signal(signal.SIGKILL)
    assert settings_at_rest() == before
    await_that(lambda: left_behind(child.pid) == [])


def await_that(holds: Callable[[], bool]) -> None:
    """Wait for something, at most two minutes: others may have their turn first."""
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@real
@pytest.mark.slow
def test_steady_scans_are_as_on_this_host() -> None:
    """Well above the limit and at random, real runs hardly differ, and the model as little."""
    choices = Choices(megabytes=(16,), pattern=("rand", "zipf"), factor=(1.5,), swappiness=(60,))
    verdict = verify_reclaim(6, repeats=2, passes=4, choices=choices)
    assert verdict.agrees, "\n".join(reclaim_lines(verdict))

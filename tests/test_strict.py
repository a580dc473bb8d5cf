"""What no library notices: used after free, freed twice, past the end, never freed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pyalloc as pa
from pyalloc.cli import main
from pyalloc.lab.strict import KINDS
from pyalloc.trace import NULL_BLOCK, Op, Trace


def errors_of(rows: list[tuple[int, ...]], **options: str) -> list[tuple[int, str]]:
    """Return row and kind of each error of a strict replay; rows are op, block, size, arg."""
    result = pa.replay(trace_of(rows), strict=True, touch="recorded", **options)
    return [(error.row, error.kind) for error in result.errors]


def trace_of(rows: list[tuple[int, ...]]) -> Trace:
    return Trace.from_arrays(*(list(column) for column in zip(*rows, strict=True)))


def test_a_block_that_is_used_after_it_was_freed() -> None:
    rows = [
        (Op.MALLOC, 0, 100, 0),
        (Op.TOUCH, 0, 100, 0),
        (Op.FREE, 0, 0, 0),
        (Op.TOUCH, 0, 1, 5),
        (Op.REALLOC, 0, 10, 0),
        (Op.FREE, 0, 0, 0),
    ]
    assert errors_of(rows) == [(3, "use-after-free"), (4, "use-after-free")]


def test_a_double_free_that_the_library_does_not_notice_and_one_that_it_does() -> None:
    """With another block freed in between, a fastbin of 2.23 takes a chunk twice."""
    rows = [(Op.MALLOC, n, 24, 0) for n in range(3)]
    rows += [(Op.FREE, 0, 0, 0), (Op.FREE, 1, 0, 0), (Op.FREE, 0, 0, 0), (Op.FREE, 2, 0, 0)]
    assert errors_of(rows, allocator="glibc-2.23") == [(5, "double-free")]
    assert errors_of(rows, allocator="glibc-2.36") == [(5, "abort")]


def test_without_strictness_only_the_library_s_own_errors_are_there() -> None:
    rows = [(Op.MALLOC, 0, 24, 0), (Op.FREE, 0, 0, 0), (Op.TOUCH, 0, 1, 0), (Op.MALLOC, 1, 5, 0)]
    assert pa.replay(trace_of(rows)).errors == ()


def test_bytes_past_the_end_though_the_chunk_has_them() -> None:
    rows = [
        (Op.MALLOC, 0, 20, 0),
        (Op.TOUCH, 0, 20, 0),
        (Op.TOUCH, 0, 1, 20),
        (Op.REALLOC, 0, 21, 0),
        (Op.TOUCH, 0, 1, 20),
        (Op.TOUCH, 0, 0, 99),
        (Op.FREE, 0, 0, 0),
    ]
    assert errors_of(rows) == [(2, "out-of-bounds")]


def test_a_leak_is_told_where_its_block_came_from() -> None:
    """Resized blocks count from the last resizing; a number that is used again leaks, too."""
    rows = [
        (Op.MALLOC, 0, 10, 0),
        (Op.MALLOC, 1, 11, 0),
        (Op.REALLOC, 1, 500, 0),
        (Op.MALLOC, 0, 12, 0),
        (Op.FREE, 0, 0, 0),
        (Op.FREE, NULL_BLOCK, 0, 0),
        (Op.REALLOC, 2, 7, 0),
        (Op.REALLOC, 2, 0, 0),
        (Op.MALLOC, 3, (1 << 64) - 100, 0),
    ]
    assert errors_of(rows) == [(0, "leak"), (2, "leak")]
    leak = pa.replay(trace_of(rows), strict=True).errors[1]
    assert leak.message.startswith("500 bytes never freed: block 1 at 0x")


def slow(trace: Trace, address: np.ndarray, calls: int, *, ended: bool) -> list[tuple[int, str]]:
    """Say the same with a table of blocks, call by call."""
    live: dict[int, tuple[int, int]] = {}  # block: row and size of its life
    dead: dict[int, int] = {}
    found = []
    for row in range(calls):
        op, block, size = int(trace.op[row]), int(trace.block[row]), int(trace.size[row])
        if block == NULL_BLOCK:
            continue
        if op in {Op.FREE, Op.TOUCH, Op.REALLOC} and block in dead:
            found.append((row, "double-free" if op == Op.FREE else "use-after-free"))
        if op == Op.TOUCH:
            beyond = block in live and size and int(trace.arg[row]) + size > live[block][1]
            found += [(row, "out-of-bounds")] * bool(beyond)
        elif op == Op.FREE or (op == Op.REALLOC and not size and not address[row]):
            if live.pop(block, None):
                dead[block] = row
        elif op == Op.REALLOC and not address[row]:
            continue
        else:
            if op != Op.REALLOC and block in live:
                found.append((live[block][0], "leak"))
            live.pop(block, None)
            dead.pop(block, None)
            if address[row]:
                live[block] = row, size
    found += [(row, "leak") for row, _ in live.values()]
    return sorted(e for e in found if not (ended and e[1] == "leak"))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("allocator", ["glibc-2.23", "glibc-2.36"])
def test_all_at_once_is_what_call_by_call_finds(allocator: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ops = [Op.MALLOC, Op.CALLOC, Op.REALLOC, Op.FREE, Op.TOUCH, Op.VALLOC]
    op = rng.choice(ops, 400, p=[0.3, 0.1, 0.15, 0.2, 0.2, 0.05])
    size = rng.choice(
        [0, 8, 24, 100, 200_000, (1 << 63) + 5], 400, p=[0.1, 0.2, 0.3, 0.3, 0.05, 0.05]
    )
    size = size.astype(np.uint64)
    block = rng.integers(0, 120, 400)
    trace = Trace.from_arrays(op, block, size, np.where(op == Op.TOUCH, block % 50, 0))
    result = pa.replay(trace, allocator, strict=True)
    missed = [(e.row, e.kind) for e in result.errors if e.kind in KINDS]
    ended = len(missed) < len(result.errors)
    assert sorted(missed) == slow(trace, result.address, result.summary.calls, ended=ended)
    assert not ended or result.errors[-1].row == result.summary.calls


def test_the_command_lists_them_and_says_no(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.parquet"
    rows = [(Op.MALLOC, n, 24, 0) for n in range(30)] + [(Op.FREE, 3, 0, 0), (Op.TOUCH, 3, 1, 0)]
    trace_of(rows).write(path)
    assert main(["replay", str(path)]) == 0
    assert "leak" not in capfd.readouterr().out
    assert main(["replay", str(path), "--strict"]) == 1
    out = capfd.readouterr().out
    assert "29 leak" in out
    assert "touch of block 3" in out
    assert main(["replay", str(path), "--strict", "--json"]) == 1
    assert len(json.loads(capfd.readouterr().out)["errors"]) == 30

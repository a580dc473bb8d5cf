"""How many records a second come in from other tools' files?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from _figures import Figure, Figures

import pyalloc as pa
from pyalloc.workload.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

COUNT = 500_000
TARGET = 2e6
WRITTEN = ("parquet", "mtrace", "ltrace", "rep")


def pointers(trace: pa.Trace) -> Iterator[tuple[int, int, int]]:
    """Yield op, size and a pointer of each call; a freed block's pointer is used again."""
    spare, of_block, at = [], {}, 0x4A41040
    for op, block, size in zip(
        trace.op.tolist(), trace.block.tolist(), trace.size.tolist(), strict=True
    ):
        if op == pa.Op.FREE:
            pointer = of_block.pop(block)
            spare.append(pointer)
        else:
            if not spare:
                spare.append(at)
                at += 4096
            pointer = of_block[block] = spare.pop()
        yield op, size, pointer


def valgrind(trace: pa.Trace) -> Iterator[str]:
    for op, size, pointer in pointers(trace):
        if op == pa.Op.FREE:
            yield f"--77-- free(0x{pointer:X})\n"
        else:
            yield f"--77-- malloc({size}) = 0x{pointer:X}\n"


def heaptrack(trace: pa.Trace) -> Iterator[str]:
    yield "v 10500 3\nX ./prog\nI 1000 5e298f\nt 401000 0\n"
    for op, size, pointer in pointers(trace):
        yield f"- {pointer:x}\n" if op == pa.Op.FREE else f"+ {size:x} 1 {pointer:x}\n"


TEXTS = {"valgrind": valgrind, "heaptrack": heaptrack}


@pytest.fixture(scope="session")
def trace() -> pa.Trace:
    return stream("random", "medium", count=COUNT, live=10_000)


@pytest.mark.parametrize("name", [*WRITTEN, *TEXTS])
def test_import(
    name: str,
    trace: pa.Trace,
    tmp_path: Path,
    benchmark: BenchmarkFixture,
    measure: Callable[..., float | None],
    figures: Figures,
) -> None:
    path = tmp_path / "file"
    if name in TEXTS:
        path.write_text("".join(TEXTS[name](trace)))
    else:
        trace.write(path, name)
    back = pa.read_trace(path, name)
    assert len(back) == COUNT
    assert int(back.size.sum()) == int(trace.size.sum())
    seconds = measure(lambda: pa.read_trace(path, name), rounds=3)
    if seconds is None:
        return
    figure = Figure(
        f"import {name}",
        COUNT / seconds / 1e6,
        "M records/s",
        TARGET / 1e6,
        model=f"{seconds * 1e9 / COUNT:.0f} ns",
    )
    figures.add(benchmark, figure)

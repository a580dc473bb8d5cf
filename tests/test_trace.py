"""The column table, its arithmetic and its native file."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyalloc as pa
from pyalloc.errors import ArgumentError, TraceError
from pyalloc.trace import Measured, Samples, SiteTable, TraceInfo
from pyalloc.trace import parquet as native

if TYPE_CHECKING:
    from pathlib import Path

NULL = 0xFFFFFFFF


def random_trace(n: int, seed: int = 0, **more: TraceInfo) -> pa.Trace:
    rng = np.random.default_rng(seed)
    return pa.Trace.from_arrays(
        op=rng.integers(0, 4, n).astype("u1"),
        block=rng.integers(0, max(n // 3, 1), n).astype("u4"),
        size=np.exp(rng.normal(5, 2, n)).astype("u8"),
        arg=np.zeros(n, "u8"),
        thread=rng.integers(0, 4, n).astype("u4"),
        site=rng.integers(0, 300, n).astype("u4"),
        time=np.cumsum(rng.integers(10, 400, n)).astype("u8"),
        address=rng.integers(1 << 20, 1 << 24, n).astype("u8") * 16,
        **more,
    )


def full_info() -> TraceInfo:
    column = np.arange(3, dtype="u8")
    return TraceInfo(
        source="recorder",
        command=("prog", "-x", "naïve\udcff"),
        pid=12,
        exit_code=3,
        glibc="2.36",
        arch="x86_64",
        tunables={"MALLOC_ARENA_MAX": "1"},
        brk_start=0x555500000000,
        maps="00400000-00401000 r--p 00000000 00:00 0\n",
        unknown_frees={7: 0x1234},
        unfinished=(9,),
        sites=SiteTable(("", "/bin/x"), np.array([0, 1], "u4"), np.array([0, 77], "u8")),
        measured=Measured(peak_rss=1 << 40, samples=Samples(*(column + i for i in range(5)))),
    )


# --- columns


def test_columns_of_the_right_type_are_not_copied() -> None:
    op, block, size = np.zeros(4, "u1"), np.arange(4, dtype="u4"), np.ones(4, "u8")
    t = pa.Trace.from_arrays(op, block, size)
    assert np.shares_memory(t.op, op)
    assert np.shares_memory(t.block, block)
    assert np.shares_memory(t.size, size)
    assert not t.op.flags.writeable


def test_columns_not_given_read_as_zeros_and_address_as_none() -> None:
    t = pa.Trace.from_arrays([0, 3], [0, 0], [10, 0])
    assert t.arg.tolist() == t.thread.tolist() == t.site.tolist() == t.time.tolist() == [0, 0]
    assert t.address is None
    assert [t.arg.dtype, t.thread.dtype, t.site.dtype, t.time.dtype] == ["u8", "u4", "u4", "u8"]


def test_lists_and_other_integer_types_are_converted() -> None:
    t = pa.Trace.from_arrays([pa.Op.MALLOC], np.array([5], "i8"), [2**64 - 1])
    assert (t.op.dtype, t.block.dtype, t.size.dtype) == ("u1", "u4", "u8")
    assert int(t.size[0]) == 2**64 - 1


def test_a_negative_sbrk_is_kept_as_twos_complement() -> None:
    t = pa.Trace.from_arrays([pa.Op.SBRK], [NULL], np.array([-4096]))
    assert int(t.size[0]) == 2**64 - 4096


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([0, 99], [0, 0], [1, 1]), "row 1: op 99 is not a pyalloc.Op"),
        (([0], [0, 1], [1]), "column block has 2 rows, column op has 1"),
        (([0, 0], [0, -1], [1, 1]), "row 1: block -1 is negative"),
        (([0, 0], [0, 1 << 32], [1, 1]), "row 1: block 4294967296 does not fit in uint32"),
        (([0, 0], [0, 1], [1, -5]), "row 1: size -5 is negative"),
        (([0, 0], [0, 1], [1, 2**64]), "size"),
        (([0], [0], [1.5]), "row 0: column size must hold integers (got 1.5)"),
        (([0], [0], np.array([1.5])), "column size must hold integers (got float64)"),
        (([0], [0], ["x"]), "column size must hold integers"),
        (([0], [0], [None]), "row 0: column size must hold integers (got None)"),
        (([[0]], [[0]], [[1]]), "column op must have one dimension"),
        ((0, [0], [1]), "column op must have one dimension"),
        (([0], [0], [1], None, [0, 1]), "column thread has 2 rows"),
    ],
)
def test_a_bad_value_is_named_with_its_row(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(TraceError) as caught:
        pa.Trace.from_arrays(*arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_trace_is_a_trace(tmp_path: Path) -> None:
    t = pa.Trace.from_arrays([], [], [])
    assert len(t) == 0
    assert t.live_bytes().tolist() == []
    assert t.summary().peak_requested == 0
    assert t.size_histogram().count.sum() == 0
    assert len(t.by_site().site) == 0
    assert repr(t) == "<Trace: 0 calls, 0 blocks, peak 0 B requested>"
    t.write(tmp_path / "t")
    assert pa.read_trace(tmp_path / "t") == t


def test_rows_slices_and_masks() -> None:
    t = random_trace(100, info=full_info())
    assert t[5].size == int(t.size[5])
    assert t[-1] == t[99]
    assert isinstance(t[5].op, pa.Op)
    assert len(list(t)) == 100
    assert np.shares_memory(t[10:20].size, t.size)
    assert t[10:20].info.maps is None
    assert t[:20].info.maps == t.info.maps
    assert t[:5].info.unknown_frees == {}
    assert t[:] == t
    assert len(t[t.op == pa.Op.FREE]) == int((t.op == pa.Op.FREE).sum())
    with pytest.raises(IndexError):
        t[100]


def test_equality_sees_every_column() -> None:
    t = random_trace(50)
    for name in t.columns:
        changed = {k: v.copy() for k, v in t.columns.items()}
        changed[name][7] ^= 1
        assert pa.Trace(changed) != t
    assert pa.Trace(t.columns) == t
    assert t != random_trace(49)
    assert t.__eq__(3) is NotImplemented


def test_a_trace_can_be_pickled() -> None:
    t = random_trace(20, info=full_info())
    assert pickle.loads(pickle.dumps(t)) == t  # noqa: S301


def test_arrow_sees_the_same_columns() -> None:
    t = random_trace(1000)
    table = t.to_arrow()
    assert table.column_names == list(t.columns)
    assert np.array_equal(np.asarray(table["size"].chunks[0]), t.size)
    assert type(t.__arrow_c_stream__()).__name__ == "PyCapsule"


# --- arithmetic


class Slow:
    """The same questions, answered one call at a time."""

    def __init__(self, trace: pa.Trace) -> None:
        self.bytes: list[int] = []
        self.blocks: list[int] = []
        held: dict[int, int] = {}
        lost: list[int] = []
        for row in trace:
            if row.op in (pa.Op.MALLOC, pa.Op.CALLOC) or (
                row.op == pa.Op.REALLOC and row.block == NULL
            ):
                if row.block in held:
                    lost.append(held.pop(row.block))
                if row.block == NULL:
                    lost.append(row.size)
                else:
                    held[row.block] = row.size
            elif row.op == pa.Op.REALLOC and row.size == 0 and row.block in held:
                del held[row.block]
            elif row.op == pa.Op.REALLOC:
                held[row.block] = row.size
            else:
                held.pop(row.block, None)
            self.bytes.append(sum(held.values()) + sum(lost))
            self.blocks.append(len(held) + len(lost))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2, 3]),
            st.sampled_from([0, 1, 2, NULL]),
            st.sampled_from([0, 1, 5, 1 << 40]),
        ),
        max_size=40,
    )
)
def test_live_bytes_and_blocks_equal_the_obvious_ones(rows: list[tuple[int, int, int]]) -> None:
    """Double frees, lost blocks, realloc to 0 and of nothing included."""
    t = pa.Trace.from_arrays(*([row[i] for row in rows] for i in range(3)))
    slow = Slow(t)
    assert t.live_bytes().tolist() == slow.bytes
    assert t.live_blocks().tolist() == slow.blocks


def test_a_request_that_failed_leaves_nothing() -> None:
    t = pa.Trace.from_arrays(
        [0, 2, 2, 0, 3], [0, 0, 0, 1, 0], [10, 1 << 63, 30, 50, 0], address=[16, 0, 0, 0, 0]
    )
    assert t.live_bytes().tolist() == [10, 10, 10, 10, 0]
    assert t.summary().failed == 3


def test_the_summary_counts() -> None:
    t = pa.Trace.from_arrays(
        op=[0, 1, 2, 3, 4, 9],
        block=[0, 1, 0, 1, 2, NULL],
        size=[100, 50, 300, 0, 64, 0],
        arg=[0, 0, 0, 0, 32, 0],
        site=[1, 2, 1, 3, 2, 3],
        time=[5, 6, 7, 8, 9, 25],
    )
    s = t.summary()
    assert s.calls_by_op[pa.Op.MALLOC] == 1
    assert (s.peak_requested, s.peak_row, s.peak_blocks) == (364, 4, 2)
    assert (s.allocations, s.bytes_allocated, s.largest) == (4, 514, 300)
    assert (s.live_bytes_at_end, s.live_blocks_at_end) == (364, 2)
    assert (s.threads, s.sites, s.duration_ns) == (1, 3, 20)
    by_site = t.by_site()
    assert by_site.site.tolist() == [1, 2]
    assert by_site.bytes_at_peak.tolist() == [300, 64]
    assert by_site.bytes.tolist() == [400, 114]


def test_the_histogram_bins_are_exact_at_their_borders() -> None:
    sizes = [0, 1, 2, 3, 4, 5, (1 << 53), (1 << 53) + 1, (1 << 62) + 1, (1 << 63) - 1]
    t = pa.Trace.from_arrays([0] * len(sizes), range(len(sizes)), sizes)
    h = t.size_histogram()
    upper = {int(u): int(c) for u, c in zip(h.upper, h.count, strict=True) if c}
    assert upper == {0: 1, 1: 1, 2: 1, 4: 2, 8: 1, 1 << 53: 1, 1 << 54: 1, 1 << 63: 2}
    assert int(h.bytes.sum()) == sum(sizes)


# --- the native file


def test_a_written_trace_reads_back_equal(tmp_path: Path) -> None:
    for n in (1, 1000, (1 << 20) + 17):
        t = random_trace(n, info=full_info())
        t.write(tmp_path / "t.parquet")
        assert pa.read_trace(tmp_path / "t.parquet") == t
        assert pa.read_trace(tmp_path / "t.parquet", "parquet") == t


def test_the_extremes_of_every_type_survive(tmp_path: Path) -> None:
    top32, top64 = [0, 2**32 - 1] * 2, [0, 2**64 - 1, 2**63, 1]
    t = pa.Trace.from_arrays(
        [0, 15, 0, 15], top32, top64, top64, top32, top32, top64, address=top64
    )
    t.write(tmp_path / "t")
    assert pa.read_trace(tmp_path / "t") == t


def test_an_address_column_of_zeros_is_kept(tmp_path: Path) -> None:
    t = pa.Trace.from_arrays([0], [0], [1 << 62], address=[0])
    t.write(tmp_path / "t")
    assert pa.read_trace(tmp_path / "t").address is not None


def test_every_truncation_is_refused_in_one_line(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    random_trace(300, info=full_info()).write(whole)
    data = whole.read_bytes()
    for length in [*range(0, len(data), 37), len(data) - 1]:
        cut.write_bytes(data[:length])
        with pytest.raises(TraceError) as caught:
            pa.read_trace(cut)
        assert str(caught.value).startswith(f"{cut}: ")
        assert "\n" not in str(caught.value)


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    """A flipped bit anywhere is a TraceError: never a crash, never a wrong trace."""
    file = tmp_path / "t"
    random_trace(300, info=full_info()).write(file)
    data = file.read_bytes()
    for at in range(0, len(data), 11):
        bad = bytearray(data)
        bad[at] ^= 0x41
        file.write_bytes(bad)
        with pytest.raises(TraceError):
            pa.read_trace(file)


def test_foreign_files_are_named_as_such(tmp_path: Path) -> None:
    file = tmp_path / "f"
    cases = {
        b"": "empty",
        b"\x7fELF" + bytes(100): "not a trace in any known format",
        b"hello world\n" * 10: "not a trace in any known format",
        b"PAR1" + bytes(100): "truncated",
        b"PAR1" + bytes(40) + b"\x20\0\0\0PAR1": "not a pyalloc trace",
        b"PAR1" + bytes(40) + b"\xff\xff\0\0PAR1": "damaged",
    }
    for content, said in cases.items():
        file.write_bytes(content)
        with pytest.raises(TraceError, match=said):
            pa.read_trace(file)
    file.write_bytes(b"hello")
    with pytest.raises(TraceError, match="not a Parquet file"):
        pa.read_trace(file, "parquet")


def test_a_file_of_a_later_version_says_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "VERSION", 99)
    random_trace(3).write(tmp_path / "t")
    monkeypatch.undo()
    with pytest.raises(TraceError, match=r"later pyalloc .trace version 99.*upgrade"):
        pa.read_trace(tmp_path / "t")


def test_missing_files_and_unknown_formats(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pa.read_trace(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        pa.read_trace(tmp_path)
    with pytest.raises(ArgumentError, match=r"no trace format 'x' .*parquet"):
        pa.read_trace(tmp_path / "none", "x")
    with pytest.raises(ArgumentError, match="cannot write format 'x'"):
        random_trace(3).write(tmp_path / "t", "x")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_nothing_else() -> None:
    with pytest.raises(OSError, match="No space left"):
        random_trace(100_000).write("/dev/full")


def test_writing_replaces_only_when_allowed(tmp_path: Path) -> None:
    file = tmp_path / "t"
    random_trace(3).write(file)
    with pytest.raises(FileExistsError):
        random_trace(4).write(file, overwrite=False)
    assert len(pa.read_trace(file)) == 3
    random_trace(4).write(file)
    assert len(pa.read_trace(file)) == 4
    with pytest.raises(IsADirectoryError):
        random_trace(3).write(tmp_path)
    with pytest.raises(FileNotFoundError):
        random_trace(3).write(tmp_path / "no" / "t")
    assert [f.name for f in tmp_path.iterdir()] == ["t"]

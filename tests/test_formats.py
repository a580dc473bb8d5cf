"""Other tools' trace formats: their own files, files of ours, and files of nobody."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyalloc as pa
from pyalloc.errors import TraceError
from pyalloc.trace import TraceInfo
from pyalloc.trace.formats import text

DATA = Path(__file__).parent / "data" / "formats"
NULL = 0xFFFFFFFF
M, C, R, F = pa.Op.MALLOC, pa.Op.CALLOC, pa.Op.REALLOC, pa.Op.FREE

# The one program all samples were made with: s.c, 2 leaks, one realloc moved and one in place.
SIZES = [100, 120, 5000, 300, 10, 12, 200000]


def calls(trace: pa.Trace) -> list[tuple[pa.Op, int, int]]:
    return [(row.op, row.block, row.size) for row in trace]


def save(tmp_path: Path, content: str | bytes) -> Path:
    file = tmp_path / "trace.txt"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


# --- files the tools wrote


def test_mtrace_of_glibc_2_36() -> None:
    t = pa.read_trace(DATA / "glibc-2.36.mtrace.txt")
    assert t.info.source == "mtrace"
    assert calls(t) == [
        (M, 0, 100),
        (M, 1, 120),
        (R, 0, 5000),
        (M, 2, 300),
        (M, 3, 10),
        (R, 3, 12),
        (M, 4, 200000),
        (F, 1, 0),
        (F, 0, 0),
        (F, 2, 0),
        (F, 4, 0),
        (M, 5, 24),
        (M, 6, 4096),
        (F, 6, 0),
    ]
    assert t.address is not None
    assert int(t.address[2]) == 0x55FCDBC08590
    assert t.info.unknown_frees == {}


def test_valgrind_keeps_function_and_alignment_but_no_address() -> None:
    t = pa.read_trace(DATA / "valgrind-trace-malloc.txt")
    assert t.info.source == "valgrind"
    assert [row.size for row in t][:7] == SIZES
    assert t[1].op == C
    assert (t[3].op, t[3].arg) == (pa.Op.MEMALIGN, 4096)
    assert t.address is None
    assert sum(row.block == NULL for row in t) == 4
    assert t.info.unknown_frees == {}


def test_heaptrack_raw_has_addresses_and_sites() -> None:
    t = pa.read_trace(DATA / "heaptrack-1.4.0.raw.txt")
    assert (t.info.source, t.info.identity, t.info.command) == ("heaptrack", "exact", ("./s",))
    assert t.address is not None
    assert (int(t.size[0]), int(t.address[0])) == (72704, 0x562C11B50530)
    site = t.info.sites[int(t.site[1])]
    assert (site.module, site.offset) == ("/srv/demo/sample/s", 0x11BF)
    assert t.info.sites[int(t.site[0])].module.endswith("libstdc++.so.6")
    assert t.summary().live_bytes_at_end == 12 + 24 + 4096


def test_heaptrack_interpreted_says_that_identity_is_a_guess() -> None:
    t = pa.read_trace(DATA / "heaptrack-1.4.0.interpreted.txt")
    assert t.info.identity == "approximate"
    assert t.address is None
    assert t.summary().live_blocks_at_end == 1
    assert t.info.unknown_frees == {}


# --- the odd lines of each format


def test_mtrace_oddities(tmp_path: Path) -> None:
    t = pa.read_trace(
        save(
            tmp_path,
            "= Start\n@ /a b/c:(f+0x12)[0x75] + 0x10 0\n@ [0x1] + 0x20 0x5\n@ [0x1] < 0x20\n"
            "@ [0x1] > 0x20 0x9\n@ [0x1] ! 0x20 0xffffffffffff\n+ 0x30 0x7\n- 0x10\n- 0x999\n"
            "@ [0x1] + (nil) 0x64\n= End\n",
        )
    )
    assert calls(t) == [
        (M, 0, 0),
        (M, 1, 5),
        (R, 1, 9),
        (R, 1, 0xFFFFFFFFFFFF),
        (M, 2, 7),
        (F, 0, 0),
        (F, 3, 0),
        (M, 4, 100),
    ]
    assert t.info.unknown_frees == {6: 0x999}
    assert t.summary().failed == 2


def test_valgrind_lines_among_other_output(tmp_path: Path) -> None:
    t = pa.read_trace(
        save(
            tmp_path,
            "==12== Memcheck\nhello malloc(3) = 5\n--12-- REDIR: 0x1 (malloc) = 0x2\n"
            "--12-- malloc(10) = 0x40\n--13-- malloc(99) = 0x40\n"
            "--12-- realloc(0x0,7)malloc(7) = 0x50\n--12-- _Znwm(8) = 0x60\n"
            "--12-- _ZnwmSt11align_val_t(size 100, al 64) = 0x80\n--12-- _ZdlPvm(0x60)\n"
            "--12-- realloc(0x50,0)free(0x50) = 0x0\n--12-- calloc(4294967296,4294967296) = 0x0\n"
            "--12-- free(0x40)\n",
        )
    )
    assert calls(t) == [
        (M, 0, 10),
        (R, 1, 7),
        (M, 2, 8),
        (pa.Op.ALIGNED_ALLOC, 3, 100),
        (F, 2, 0),
        (R, 1, 0),
        (C, 4, 2**64 - 1),
        (F, 0, 0),
    ]
    assert t[3].arg == 64
    assert t.summary().live_bytes_at_end == 100


def test_ltrace_prefixes_halves_and_crashes(tmp_path: Path) -> None:
    t = pa.read_trace(
        save(
            tmp_path,
            "__libc_start_main(0x4, 1) = 0\n"
            "[pid 7] 12:30:01.123456 prog->malloc(10)          = 0x55d0c1\n"
            "[pid 8] 12:30:02.123456 malloc(20 <unfinished ...>\n"
            "[pid 7] 12:30:02.200000 libc.so.6->calloc(3, 0x10) = 0x1000\n"
            "[pid 8] 12:30:02.300000 <... malloc resumed> )     = 0x2000\n"
            "[pid 7] 12:30:02.400000 realloc(nil, 5)            = 0x3000\n"
            "[pid 7] 12:30:02.400000 free(0x1000)               = <void>\n"
            "[pid 7] 12:30:02.400000 free(nil)                  = <void>\n"
            "[pid 8] 12:30:02.400000 memalign(64, 9)            = 0x4000\n"
            "[pid 7] 12:30:02.500000 malloc(99 <no return ...>\n"
            "+++ killed by SIGSEGV +++\n",
        )
    )
    assert t.info.source == "ltrace"
    assert calls(t) == [
        (M, 0, 10),
        (C, 1, 48),
        (M, 2, 20),
        (R, 3, 5),
        (F, 1, 0),
        (F, NULL, 0),
        (pa.Op.MEMALIGN, 4, 9),
    ]
    assert t.thread.tolist() == [0, 0, 1, 0, 0, 0, 1]


def test_heaptrack_pairs_blocks_of_one_place_youngest_first(tmp_path: Path) -> None:
    t = pa.read_trace(
        save(
            tmp_path,
            "v 10680 3\ns 3 a/b\ni 10 1\nt 1 0\na 20 1\na 30 1\nc a\n+ 0\n+ 1\n+ 0\n+ 0\n"
            "- 0\n- 0\n+ 0\nc 1f\n- 1\n- 0\n- 0\n- 0\nR 10\n# comment\n",
        )
    )
    assert [row.block for row in t] == [0, 1, 2, 3, 3, 2, 4, 1, 4, 0, 5]
    assert t.info.unknown_frees
    assert t.time.tolist() == [10_000_000] * 7 + [31_000_000] * 4


def test_a_gzipped_heaptrack_file_is_unpacked(tmp_path: Path) -> None:
    raw = (DATA / "heaptrack-1.4.0.raw.txt").read_bytes()
    packed = save(tmp_path, gzip.compress(raw))
    assert calls(pa.read_trace(packed)) == calls(pa.read_trace(DATA / "heaptrack-1.4.0.raw.txt"))
    with pytest.raises(TraceError, match="damaged gzip"):
        pa.read_trace(save(tmp_path, gzip.compress(raw)[:-20]))
    with pytest.raises(TraceError, match="unpack it first"):
        pa.read_trace(save(tmp_path, b"\x28\xb5\x2f\xfd" + bytes(20)))


# --- round trips


def random_trace(seed: int, *, frees: bool = True, info: TraceInfo | None = None) -> pa.Trace:
    """Return a well-formed trace with addresses: no block is used after it is freed."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, int]] = []
    live: list[int] = []
    count = 0
    for _ in range(500):
        what = rng.integers(0, 4)
        if what < 2 or not live:
            rows.append((int(M), count, int(rng.integers(0, 10**6)), 0x10000 + count * 4096))
            live.append(count)
            count += 1
        elif what == 2 or not frees:
            block = live[int(rng.integers(len(live)))]
            moved = 0x900000000 + len(rows) * 4096
            rows.append((int(R), block, int(rng.integers(1, 10**6)), moved))
        else:
            rows.append((int(F), live.pop(int(rng.integers(len(live)))), 0, 0))
    op, block, size, address = zip(*rows, strict=True)
    return pa.Trace.from_arrays(op, block, size, address=address, info=info)


@pytest.mark.parametrize("name", ["mtrace", "ltrace", "rep"])
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_written_reads_back(tmp_path: Path, name: str, seed: int) -> None:
    t = random_trace(seed)
    t.write(tmp_path / "t", name)
    u = pa.read_trace(tmp_path / "t")
    assert u.info.source == name
    assert calls(u) == calls(t)
    if name != "rep":
        assert u.address is not None
        assert t.address is not None
        assert np.array_equal(u.address, t.address)


def test_small_pieces_give_the_same_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line, a realloc pair and a header may lie across the border of two pieces."""
    for name in ("mtrace", "ltrace", "rep"):
        t = random_trace(5)
        t.write(tmp_path / name, name)
        for size in (64, 1000):
            monkeypatch.setattr(text, "PIECE", size)
            assert calls(pa.read_trace(tmp_path / name, name)) == calls(t)
            monkeypatch.undo()


def test_what_a_format_cannot_hold_is_refused_with_its_row(tmp_path: Path) -> None:
    t = pa.Trace.from_arrays([M, pa.Op.MALLOC_TRIM], [0, NULL], [1, 0])
    for name in ("mtrace", "ltrace", "rep"):
        with pytest.raises(TraceError, match=r"row 1: .* cannot hold MALLOC_TRIM"):
            t.write(tmp_path / "t", name)
    assert list(tmp_path.iterdir()) == []


# --- bad files


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("mtrace", "= Start\n@ x + 0x10 0x20\nrubbish\n", "line 3: not an mtrace event: 'rubbish'"),
        ("mtrace", "= Start\n@ x + 0x1g 0x20\n", "line 2: not a pointer"),
        ("mtrace", "= Start\n@ x + 0x10 0x2-\n", "line 2: not a size"),
        ("mtrace", "= Start\n@ x + 0x10\n", "line 2: not an mtrace event"),
        ("valgrind", "--1-- malloc(10) = 0x40\n--1-- malloc(1x) = 0x4\n", "line 2: not a number"),
        ("valgrind", "--1-- malloc(10) = 0x40\n--1-- malloc(1)\n", "line 2: not a complete call"),
        ("ltrace", "malloc(10) = 0x40\nmalloc(10) = 0xz\n", "line 2: not a number in a call"),
        ("rep", "1\n1\n2\n1\na 0 10\nx 0\n", "line 6: not an operation"),
        ("rep", "1\n1\n2\n1\na 0 10\nf 4294967295\n", "line 6: not an id"),
        ("rep", "1\n1\n2\n1\na 0 10\n", "truncated: 1 of 2 operations"),
        ("rep", "1\n1\nx\n1\na 0 10\n", "line 3: not one of the four numbers"),
        ("heaptrack", "v 1 3\n+ 10 1 20\n? 3\n", "line 3: not a heaptrack record"),
        ("heaptrack", "v 1 3\n+ 10 1\n", "line 2: a number is missing"),
        ("heaptrack", "v 1 3\n- 1q\n", "line 2: not a hexadecimal number"),
        ("heaptrack", "v 1 9\n+ 10 1 20\n", "line 1: file version 9 is later than 3"),
        ("heaptrack", "v 1 3\na 10 1\n+ 5\n", "allocation info 5 is never defined"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    with pytest.raises(TraceError) as caught:
        pa.read_trace(save(tmp_path, content), name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# --- the reader of numbers


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50))
def test_numbers_are_read_exactly(numbers: list[int]) -> None:
    line = " ".join(f"{n} {n:x} {n:#x} {n:X}" for n in numbers) + "\n"
    piece = text.Piece(Path(), 0, np.frombuffer(line.encode(), np.uint8), text.separators(b""))
    token = np.arange(len(piece.start))
    for read, start in ((piece.decimal, 0), (piece.hexadecimal, 1), (piece.number, 2)):
        found = read(token[start::4])
        assert found.value.tolist() == numbers
        assert not found.bad.any()
    assert piece.hexadecimal(token[3::4]).value.tolist() == numbers


@given(st.text("0123456789abcdefgxXA:@`/- G~", min_size=1, max_size=22))
def test_what_is_no_number_is_noticed(word: str) -> None:
    word = word.replace(" ", "_")
    data = np.frombuffer(f"{word}\n".encode(), np.uint8)
    piece = text.Piece(Path(), 0, data, text.separators(b""))
    token = np.array([0])
    is_hex = len(word) <= 16 and all(c in "0123456789abcdefABCDEF" for c in word)
    assert bool(piece.hexadecimal(token).bad[0]) != is_hex
    is_decimal = len(word) <= 20 and word.isdecimal()
    assert bool(piece.decimal(token).bad[0]) != is_decimal

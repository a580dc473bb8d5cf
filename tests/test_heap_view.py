"""Looking into a heap shows every chunk where it is, and changes nothing."""

from __future__ import annotations

import json
from dataclasses import astuple

import numpy as np
import pytest
from test_host import WORDS

import pyalloc as pa
from pyalloc.errors import ArgumentError
from pyalloc.host import glibc
from pyalloc.machine.chunks import ChunkState
from pyalloc.workload.streams import stream

GENERATIONS = [a.name for a in pa.allocators() if a.name.startswith("glibc-")]
ARCHES = {"x86_64": 8, "i386": 4}


def played(
    allocator: str, arch: str = "x86_64", seed: int = 0, threads: int = 1, calls: int = 3000
) -> tuple[pa.Trace, pa.Replay]:
    """Return a stream of all kinds of calls, and its replay."""
    kinds = ("random", "lifo", "pins", "bursts")
    trace = stream(kinds[seed % 4], "mixed", calls, 100, seed, calls="all")
    if threads > 1:
        thread = np.random.default_rng(seed).integers(0, threads, len(trace))
        trace = pa.Trace.from_arrays(trace.op, trace.block, trace.size, trace.arg, thread=thread)
    return trace, pa.replay(trace, allocator, arch=arch)


CASES = [
    pytest.param(name, arch, seed, threads, id=f"{name}-{arch}-{threads}t")
    for seed, name in enumerate(GENERATIONS)
    for arch in ARCHES
    for threads in (1, 3)
]


@pytest.mark.parametrize(("allocator", "arch", "seed", "threads"), CASES)
def test_every_block_of_the_program_is_a_chunk_in_use_and_no_other_is(
    allocator: str, arch: str, seed: int, threads: int
) -> None:
    """Address and requested size are the trace's; the tcaches' own chunks are told apart."""
    trace, replay = played(allocator, arch, seed, threads)
    live: dict[int, int] = {}
    for row, address in zip(trace, replay.address.tolist(), strict=True):
        if row.op == pa.Op.FREE:
            live.pop(row.block)
        elif address:
            live[row.block] = address
    chunks = replay.heap.chunks()
    held = chunks[np.isin(chunks.state, (ChunkState.USED, ChunkState.MAPPED))]
    assert dict(zip(held.block.tolist(), held.address.tolist(), strict=True)) == live
    header = 2 * ARCHES[arch]
    assert (held.requested <= held.size.astype(np.int64) - header // 2).all()
    assert (held.requested >= 0).all()


@pytest.mark.parametrize(("allocator", "arch", "seed", "threads"), CASES)
def test_chunks_and_lists_add_up_to_what_the_heap_counts(
    allocator: str, arch: str, seed: int, threads: int
) -> None:
    """No chunk overlaps the next; each kind has the bytes that the running totals say."""
    _, replay = played(allocator, arch, seed, threads)
    heap = replay.heap
    chunks, counted = heap.chunks(), heap.heap.statistics()
    ends = chunks.address + chunks.size
    assert (ends[:-1] <= chunks.address[1:]).all()
    for name in ("tcache", "fast", "unsorted", "small", "large", "top"):
        state = ChunkState[name.upper()]
        assert chunks.bytes_of(state) == getattr(counted, f"bytes_{name}"), name
    listed = np.concatenate([heap.bins().address, heap.tcache().address])
    is_listed = (chunks.state >= ChunkState.TCACHE) & (chunks.state <= ChunkState.LARGE)
    assert sorted(listed.tolist()) == chunks.address[is_listed].tolist()
    own = chunks[chunks.state == ChunkState.OWN]
    assert len(own) <= threads
    assert len(heap.arenas()) == counted.count_arenas


@pytest.mark.parametrize("arch", ARCHES)
def test_memory_on_both_sides_of_somebody_else_s_break_is_seen(arch: str) -> None:
    """The main arena goes on behind the gap; fences close what is before it."""
    process = pa.Machine(ram="64M", kernel="6.18", arch=arch).spawn()
    blocks = []
    for _ in range(4):
        blocks += [process.malloc(50_000) for _ in range(4)]
        process.sbrk(10_000)
    chunks = process.heap.chunks()
    assert chunks.address[chunks.state == ChunkState.USED].tolist() == blocks
    assert (chunks.state == ChunkState.FENCE).sum() >= 2
    assert (chunks.state == ChunkState.TOP).sum() == 1


def test_a_heap_that_had_to_go_on_in_a_mapping_is_seen_whole() -> None:
    """Where the break cannot grow, mappings take its place."""
    machine = pa.Machine(ram="64M", kernel="6.18", arch="x86_64")
    process = machine.spawn()
    first = process.malloc(100)
    process.mmap(process.brk(0) + 4096, 4096, 3, 0x32)
    blocks = [first] + [process.malloc(100_000) for _ in range(30)]
    chunks = process.heap.chunks()
    held = chunks[chunks.state == ChunkState.USED]
    assert held.address.tolist() == sorted(blocks)
    assert not process.heap.arenas()[0].is_contiguous


def test_lists_come_in_the_order_in_which_they_are_served() -> None:
    """A tcache is last in, first out, and its position 0 is the next one out."""
    process = pa.Machine(ram="64M", kernel="6.18", arch="x86_64").spawn()
    blocks = [process.malloc(40) for _ in range(9)]
    for block in blocks:
        process.free(block)
    cached = process.heap.tcache()
    assert cached.address.tolist() == blocks[6::-1]
    assert cached.position.tolist() == list(range(7))
    fast = process.heap.bins()
    assert fast.address.tolist() == [blocks[8], blocks[7]]
    assert {c.state for c in fast} == {ChunkState.FAST}
    assert process.malloc(40) == cached.address[0]
    assert len(process.heap.tcache(thread=0)) == 6
    assert len(process.heap.tcache(thread=1)) == 0


def test_columns_go_to_arrow_with_words_and_nulls() -> None:
    _, replay = played("glibc-2.36")
    table = replay.heap.chunks().to_arrow()
    assert set(table["state"].to_pylist()) >= {"used", "top", "own", "tcache"}
    top = table["state"].to_pylist().index("top")
    assert table["requested"].to_pylist()[top] is None
    assert table["thread"].to_pylist()[top] is None
    by_list = replay.heap.bins().by_list()
    assert sum(by_list["bytes"].to_pylist()) == replay.heap.bins().size.sum()


def test_a_playback_shows_the_heap_at_any_call() -> None:
    """The heap at call N is the one that the first N calls alone leave."""
    trace, _ = played("glibc-2.36", calls=600)
    process = pa.Machine(ram="256G", swap=0, kernel="6.18", arch="x86_64").spawn("prog")
    playback = process.playback(trace)
    for row in (1, 250, 600):
        playback.run_to(row)
        alone = pa.replay(trace[:row]).heap.chunks()
        shown = playback.heap.chunks()
        for name, column in shown.columns.items():
            assert (column == alone.columns[name]).all(), (row, name)


def test_looking_changes_nothing() -> None:
    """A program whose heap is looked at again and again runs as one whose heap is not."""
    trace, undisturbed = played("glibc-2.36", calls=300)
    process = pa.Machine(ram="256G", swap=0, kernel="6.18", arch="x86_64").spawn("prog")
    blocks: dict[int, int] = {}
    made = {
        pa.Op.MALLOC: lambda row: process.malloc(row.size),
        pa.Op.CALLOC: lambda row: process.calloc(1, row.size),
        pa.Op.REALLOC: lambda row: process.realloc(blocks[row.block], row.size),
        pa.Op.FREE: lambda row: process.free(blocks.pop(row.block)) or 0,
        pa.Op.VALLOC: lambda row: process.valloc(row.size),
        pa.Op.PVALLOC: lambda row: process.pvalloc(row.size),
    }
    heap = process.heap
    for number, row in enumerate(trace):
        call = made.get(row.op, lambda row: process.memalign(row.arg, row.size))
        address = call(row)
        assert address == undisturbed.address[number]
        if address:
            blocks[row.block] = address
        assert heap.malloc_stats()
        assert heap.malloc_info()
        assert heap.draw()
        assert heap.explain(int(heap.chunks().address[number % len(heap.chunks())])).sentences
    assert process.pages.table.counters()["anon"] * 4096 == undisturbed.summary.rss


# --- in words


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("allocator", ["glibc-2.3.3", "glibc-2.23", "glibc-2.36", "glibc-2.43pre"])
def test_what_the_next_malloc_would_get_is_what_it_gets(allocator: str, arch: str) -> None:
    """Of every chunk of a worn heap: the address foretold is the address that comes."""
    trace, _ = played(allocator, arch, calls=800)
    machine = pa.Machine(ram="256G", swap=0, kernel="6.18", arch=arch)
    machine.spawn("prog", allocator=allocator).replay(trace)
    (pid,) = machine.processes
    chunks = machine.processes[pid].heap.chunks()
    for chunk in list(chunks)[:: max(len(chunks) // 40, 1)]:
        told = machine.processes[pid].heap.explain(chunk.address)
        assert told.chunk == chunk
        if told.next_address is not None:
            twin = machine.copy().processes[pid]
            header = 2 if chunk.state == ChunkState.MAPPED else 1
            assert twin.malloc(chunk.size - header * ARCHES[arch]) == told.next_address


def small_heap() -> tuple[pa.Process, list[int]]:
    process = pa.Machine(ram="64M", kernel="6.18", arch="x86_64").spawn()
    return process, [process.malloc(size) for size in (40, 5000, 40, 9000, 40, 200_000, 40)]


def test_an_explanation_names_state_neighbours_and_what_holds_the_break() -> None:
    process, blocks = small_heap()
    process.free(blocks[3])
    told = process.heap.explain(blocks[3] + 100)
    assert told.offset == 100
    assert told.chunk is not None
    assert told.chunk.state == ChunkState.UNSORTED
    assert told.before is not None
    assert told.before.address == blocks[2]
    assert told.after is not None
    assert told.after.address == blocks[4]
    assert told.pinned_by is not None
    assert told.pinned_by.address == blocks[6]
    assert told.trimmable == 4096
    text = str(told)
    assert "100 bytes into the memory that begins at" in text
    assert "free, on the unsorted list, 1st of 1" in text
    assert f"Above it 48 bytes at {blocks[6]:#x}, in use holds the break up" in text
    assert "malloc_trim(0) would give 1 whole pages of it back" in text
    assert "would get this chunk, as it is on the unsorted list" in text


def test_what_malloc_trim_would_give_back_is_what_it_gives() -> None:
    """Summed over all chunks, the pages foretold are the pages that go."""
    process, _ = small_heap()
    holes = []
    for size in (40_000, 30_000, 20_000):
        holes.append(process.malloc(size))
        process.touch(holes[-1], size)
        process.malloc(10)
    for hole in holes:
        process.free(hole)
    before, brk = process.pages.table.counters()["anon"], process.heap.heap.brk
    told = [process.heap.explain(chunk.address) for chunk in process.heap.chunks()]
    pages = sum(t.trimmable for t in told if t.chunk and t.chunk.state != ChunkState.TOP) // 4096
    (top,) = (t.trimmable for t in told if t.chunk and t.chunk.state == ChunkState.TOP)
    assert process.malloc_trim(0) == 1
    assert brk - process.heap.heap.brk == top
    assert before - process.pages.table.counters()["anon"] >= pages > 15


def test_what_free_would_do_is_told_for_each_kind_of_chunk() -> None:
    process, blocks = small_heap()
    explain = process.heap.explain
    assert "free() would put it into the tcache of thread 0 (bin 1)." in str(explain(blocks[0]))
    assert "free() would put it on the unsorted list." in str(explain(blocks[3]))
    assert "free() would give its memory back to the system." in str(explain(blocks[5]))
    assert "a mapping of its own" in str(explain(blocks[5]))
    for _ in range(7):
        process.free(process.malloc(40))
    last = process.malloc(2000)
    assert "would make it part of the top" in str(explain(last))
    top = process.heap.chunks()
    top = top[top.state == ChunkState.TOP]
    assert "the trim threshold" in str(explain(int(top.address[0])))


def test_an_address_outside_is_said_to_be_outside() -> None:
    process, _ = small_heap()
    assert "nothing is mapped there" in str(process.heap.explain(0x10))
    assert process.heap.explain(0x10).chunk is None
    stack = next(key for key, rest in process.maps().items() if "[stack]" in rest)
    start = int(stack.split("-")[0], 16)
    assert f"it lies in the area {start:#x}-" in str(process.heap.explain(start))


def test_the_last_byte_there_can_be_is_an_address_and_nothing_beyond_it() -> None:
    process, _ = small_heap()
    assert process.heap.explain((1 << 64) - 1).chunk is None
    for wrong in (-1, 1 << 64):
        with pytest.raises(pa.ArgumentError, match="an address is 0 to"):
            process.heap.explain(wrong)
    for wrong in ("0x10", None, 1.5):
        with pytest.raises(pa.WrongType, match="address must be an int"):
            process.heap.explain(wrong)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(pa.WrongType, match="start must be an int"):
        process.heap.draw("0x10")  # type: ignore[arg-type]


def test_an_explanation_is_json() -> None:
    process, blocks = small_heap()
    told = process.heap.explain(blocks[0]).to_dict()
    assert json.loads(json.dumps(told))["chunk"]["state"] == "used"


# --- as a drawing


def test_a_drawing_shows_each_chunk_where_it_begins() -> None:
    """At the closest a cell is 16 bytes: 48 bytes in use, 5,008 free, 48 in use."""
    process, blocks = small_heap()
    process.free(blocks[0])
    process.free(blocks[1])
    text = process.heap.draw(blocks[0] - 16, blocks[2] + 32)
    rows = [line[16:80] for line in text.splitlines() if line.lstrip().startswith("0x")]
    assert "".join(rows).startswith("[tt[" + "u" * 60)
    assert "".join(rows).rstrip().endswith("u[##")
    assert (
        text.splitlines()[-1]
        == "a cell is 16 bytes:  # in use  t tcache  u unsorted  [ a chunk begins"
    )


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("width", [60, 80, 100, 180])
def test_a_drawing_keeps_to_its_width_and_rows(arch: str, width: int) -> None:
    _, replay = played("glibc-2.36", arch, threads=3)
    text = replay.heap.draw(width=width, rows=20)
    assert all(len(line) <= width for line in text.splitlines())
    assert sum(line.lstrip().startswith("0x") for line in text.splitlines()) <= 20
    assert "arena 2" in text


def test_shares_in_use_and_resident_stand_at_the_right() -> None:
    process = pa.Machine(ram="64M", kernel="6.18", arch="x86_64").spawn()
    block = process.malloc(100_000)
    process.touch(block, 100_000)
    first, *_, last = (line for line in process.heap.draw().splitlines() if "%" in line)
    assert first.split()[-2:] == ["100%", "100%"]
    assert last.split()[-2:] == ["0%", "0%"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"width": 20}, "needs 48 columns"),
        ({"rows": 0}, "needs 48 columns and a row"),
        ({"start": 2000, "end": 1000}, "must lie behind its start"),
    ],
)
def test_a_drawing_that_cannot_be_is_refused(arguments: dict[str, int], words: str) -> None:
    process, _ = small_heap()
    with pytest.raises(ArgumentError, match=words):
        process.heap.draw(**arguments)


def test_where_there_is_no_heap_there_is_nothing_to_draw() -> None:
    process = pa.Machine(ram="64M", kernel="6.18", arch="x86_64").spawn()
    assert process.heap.draw() == "no chunk of the heap lies there\n"


# --- the library's own words


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("seed", range(6))
def test_statistics_are_the_real_library_s_byte_for_byte(word: int, seed: int) -> None:
    """malloc_stats, malloc_info, mallinfo, mallinfo2 of this host's glibc after the same calls."""
    kinds, sizes = ("random", "pins", "comb", "bursts"), ("mixed", "small", "64", "heavy")
    trace = stream(kinds[seed % 4], sizes[seed % 4], 400 + seed * 333, 100, seed, calls="all")
    real = glibc.run(trace, word=word, statistics=True)
    if f"glibc-{real.glibc}" not in GENERATIONS:
        pytest.skip(f"no profile of glibc {real.glibc}")
    arch = "x86_64" if word == 8 else "i386"
    model = pa.replay(
        trace, f"glibc-{real.glibc}", arch=arch, maps=real.maps, brk=real.brk0, samples=0
    )
    told, heap = real.statistics, model.heap
    assert told is not None
    assert heap.malloc_stats() == told.malloc_stats
    assert heap.malloc_info() == told.malloc_info
    assert astuple(heap.mallinfo()) == told.mallinfo
    assert astuple(heap.mallinfo2()) == told.mallinfo2


def texts(allocator: str, arch: str = "x86_64") -> tuple[str, str]:
    """Return malloc_stats and malloc_info of a small heap with all kinds of lists."""
    process = pa.Machine(ram="64M", kernel="6.18", arch=arch).spawn(allocator=allocator)
    blocks = [process.malloc(size) for size in (40, 40, 2000, 10, 300, 10, 5000, 10, 200_000)]
    if process.heap.settings().count_tcache:
        process.mallopt(-99, 0)  # as each of them: consolidates, changes nothing
    for index in (0, 2, 4, 6):
        process.free(blocks[index])
    process.malloc(3000)
    process.free(blocks[1])
    return process.heap.malloc_stats(), process.heap.malloc_info()


def test_malloc_info_of_2_12_has_no_mappings_and_sums_the_unsorted_list_from_what_was_there() -> (
    None
):
    process = pa.Machine(ram="64M", kernel="6.18", arch="x86_64").spawn(allocator="glibc-2.12")
    assert process.heap.malloc_info() == (
        '<malloc version="1">\n<heap nr="0">\n<sizes>\n</sizes>\n'
        '<total type="fast" count="0" size="0"/>\n<total type="rest" count="0" size="0"/>\n'
        '<system type="current" size="0"/>\n<system type="max" size="0"/>\n'
        '<aspace type="total" size="0"/>\n<aspace type="mprotect" size="0"/>\n</heap>\n'
        '<total type="fast" count="0" size="0"/>\n<total type="rest" count="0" size="0"/>\n'
        '<system type="current" size="0"/>\n<system type="max" size="0"/>\n'
        '<aspace type="total" size="0"/>\n<aspace type="mprotect" size="0"/>\n</malloc>\n'
    )
    text = texts("glibc-2.12")[1]
    assert '\n<size from="321" to="321" total="321" count="1"/>\n' in text
    assert '\n<unsorted from="0" to="2001" total="2001" count="1"/>\n' in text
    assert '<total type="rest" count="4" size="4388"/>' in text
    assert 'type="mmap"' not in text


def test_malloc_info_of_2_23_begins_its_sizes_with_the_source_s_indentation() -> None:
    """Seven tabs and eight spaces got from the source file into its output, up to 2.30."""
    text = texts("glibc-2.23")[1]
    assert '\n\t\t\t\t\t\t\t        <size from="33" to="48" total="48" count="1"/>\n' in text
    assert '<total type="mmap" count="1" size="200704"/>\n' in text
    assert "  <unsorted" in text


def test_malloc_info_of_2_43_has_no_fastbins() -> None:
    assert 'type="fast"' not in texts("glibc-2.43pre")[1]


def test_the_top_counts_as_a_free_chunk_since_2_31() -> None:
    for allocator, extra in (("glibc-2.23", 0), ("glibc-2.31", 1)):
        process = pa.Machine(ram="64M", kernel="6.18", arch="x86_64").spawn(allocator=allocator)
        process.malloc(10)
        assert f'<total type="rest" count="{extra}"' in process.heap.malloc_info()


def test_thread_heaps_are_counted_since_2_27() -> None:
    for allocator, counted in (("glibc-2.23", False), ("glibc-2.31", True)):
        process = pa.Machine(ram="64M", kernel="6.18", arch="x86_64").spawn(allocator=allocator)
        process.malloc(10)
        process.set_thread(1)
        process.malloc(10)
        assert ('type="subheaps" size="1"' in process.heap.malloc_info()) == counted
        assert "Arena 1:\n" in process.heap.malloc_stats()


def test_what_a_generation_does_not_have_is_refused() -> None:
    machine = pa.Machine(ram="64M", kernel="6.18", arch="x86_64")
    old = machine.spawn(allocator="glibc-2.3.3").heap
    with pytest.raises(ArgumentError, match=r"came with glibc 2\.10"):
        old.malloc_info()
    with pytest.raises(ArgumentError, match=r"came with glibc 2\.33"):
        old.mallinfo2()
    with pytest.raises(OSError, match="Invalid argument"):
        machine.spawn(allocator="glibc-2.36").heap.malloc_info(1)
    other = machine.spawn(allocator="first-fit")
    other.malloc(100)
    with pytest.raises(ArgumentError, match="not a glibc"):
        other.heap.malloc_stats()
    assert (other.heap.chunks().state == ChunkState.USED).sum() == 1


def test_mallinfo_is_negative_past_2_gib() -> None:
    process = pa.Machine(ram="8G", kernel="6.18", arch="x86_64").spawn()
    process.malloc(3 << 30)
    assert process.heap.mallinfo2().hblkhd == (3 << 30) + 4096
    assert process.heap.mallinfo().hblkhd == (3 << 30) + 4096 - (1 << 32)

"""A program begins in the address space that the kernel's exec gives it."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_host import can_build
from test_verify_kernel import can_verify

import pyalloc as pa
from pyalloc.host.kernel import host_kernel
from pyalloc.kernel.elf import Image, Segment, read_image

PAGE = 4096
COMPAT, THREE, IMPLIES = (
    pa.PER.ADDR_COMPAT_LAYOUT, pa.PER.ADDR_LIMIT_3GB, pa.PER.READ_IMPLIES_EXEC,
)  # fmt: skip
HELLO = """
#include <stdio.h>
static char zeros[100000];
int value = 5;
int main(void) { zeros[3] = (char)value; return puts("hello"); }
"""
BUILDS = {
    "pie": ["-pie"],
    "no-pie": ["-no-pie"],
    "static": ["-static", "-no-pie"],
    "static-pie": ["-static-pie"],
    "exec-stack": ["-z", "execstack"],
    "aligned": ["-static-pie", "-Wl,-z,max-page-size=0x200000"],
}


@dataclass(frozen=True)
class Begun:
    """What a real process shows before its first instruction."""

    maps: str
    status: str
    stat: list[str]


def begin(path: str, personality: int) -> Begun:
    """Start a program under a tracer, which stops it when exec is done; look, and end it."""
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.personality(personality | 0x40000)  # ADDR_NO_RANDOMIZE
        resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.RLIM_INFINITY))
        libc.ptrace(0, 0, 0, 0)  # PTRACE_TRACEME

    process = subprocess.Popen(
        [path],
        env={},
        preexec_fn=prepare,  # noqa: PLW1509 - it has one thread by then
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            pytest.skip("no process may be traced here")
        proc = Path(f"/proc/{process.pid}")
        maps, text, stat = ((proc / name).read_text() for name in ("maps", "status", "stat"))
    finally:
        process.kill()
        process.wait()
    return Begun(maps, text, stat.rpartition(")")[2].split())


def lines(text: str) -> list[str]:
    """Return the lines of maps without devices and inode numbers; links as what they lead to."""
    found = []
    for line in text.splitlines():
        span, rights, offset, _, _, *name = line.split(None, 5)
        label = os.path.realpath(name[0]) if name and name[0].startswith("/") else "".join(name)
        found.append(f"{span} {rights} {offset} {label}".rstrip())
    return found


def compare(path: str) -> None:
    """Compare the beginning of a program here and in the model, under each personality."""
    image = read_image(path)
    arch = "x86_64" if image.word == 8 else "i386"
    machine = pa.Machine(ram="8G", kernel=host_kernel().model, arch=arch)
    for personality in (0, COMPAT, THREE, THREE | COMPAT)[: 4 if image.word == 4 else 2]:
        real = begin(path, int(personality))
        ours = machine.spawn("prog", image=path, personality=personality)
        assert lines(str(ours.maps())) == lines(real.maps)
        status = pa.parse_proc("status", real.status)
        for name in ("VmSize", "VmData", "VmStk", "VmExe", "VmLib"):
            assert ours.status()[name] == status[name]
        space = ours.space
        code, data = map(int, real.stat[23:25]), map(int, real.stat[42:45])
        assert [space.start_code, space.end_code] == list(code)
        assert [space.start_data, space.end_data, space.start_brk] == list(data)
        assert ours.brk(0) == space.start_brk


@pytest.mark.skipif(not can_verify(), reason="no profile of this host's kernel")
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("word", [8, 4])
def test_a_program_begins_as_on_this_host(word: int, build: str, tmp_path: Path) -> None:
    """Maps, sizes, code, data and break of each way to link a program, in each layout."""
    if not can_build(word):
        pytest.skip("no compiler for this word size")
    source, program = tmp_path / "hello.c", tmp_path / "hello"
    source.write_text(HELLO)
    command = ["gcc", f"-m{8 * word}", *BUILDS[build], "-o", str(program), str(source)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this compiler does not link so")
    compare(str(program))


@pytest.mark.skipif(not can_verify(), reason="no profile of this host's kernel")
def test_this_python_begins_as_on_this_host() -> None:
    """A large program that somebody else linked."""
    compare(os.path.realpath(sys.executable))


def small(*, movable: bool, word: int = 4, stack: bool | None = False) -> Image:
    """Return a program of one page of code and one of data, with a page of zeros."""
    base = 0 if movable else 0x08048000
    return Image(
        "/prog",
        2 * PAGE,
        word,
        movable,
        (
            Segment(base, 0, PAGE, PAGE, 5, PAGE),
            Segment(base + PAGE, PAGE, 0x100, 2 * PAGE, 3, PAGE),
        ),
        executable_stack=stack,
    )


@pytest.mark.parametrize(
    ("kernel", "arch", "start"),
    [
        ("2.6.11", "i386", 0x80000000),
        ("2.6.18", "i386", 0x80000000),
        ("2.6.18", "i386-4g4g", 0xAA000000),
        ("2.6.18", "x86_64", 0x555555554000),
    ],
)
def test_a_movable_program_of_2_6_begins_at_two_thirds(kernel: str, arch: str, start: int) -> None:
    """With its zeros behind all of it, and the heap behind those."""
    image = small(movable=True, word=8 if arch == "x86_64" else 4)
    process = pa.Machine(ram="64M", kernel=kernel, arch=arch).spawn("p", image=image)
    spans = list(process.maps())
    assert spans[0] == f"{start:08x}-{start + PAGE:08x}"
    assert spans[1] == f"{start + PAGE:08x}-{start + 2 * PAGE:08x}"
    assert process.brk(0) == start + 3 * PAGE


def test_an_old_program_reads_and_executes() -> None:
    """Without PT_GNU_STACK its stack is executable, and so is all that it may read."""
    for kernel in ("2.6.18", "6.18"):
        machine = pa.Machine(ram="64M", kernel=kernel, arch="i386")
        process = machine.spawn("p", image=small(movable=False, stack=None))
        rights = [rest.split()[0] for rest in process.maps().values()]
        assert "rw-p" not in rights
        at = process.mmap(0, PAGE, 1, 0x22)
        assert process.maps()[f"{at:08x}-{at + PAGE:08x}"].startswith("r-xp")


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    """One line says why: no file, no ELF, another word size, cut short."""
    machine = pa.Machine(ram="64M", kernel="6.18", arch="x86_64")
    text, cut = tmp_path / "text", tmp_path / "cut"
    text.write_text("#!/bin/sh\n" + "x" * 100)
    cut.write_bytes(Path(os.path.realpath(sys.executable)).read_bytes()[:100])
    for path, why in (
        (str(tmp_path / "none"), "No such file"),
        (text, "not an ELF program"),
        (cut, "ends within its headers"),
    ):
        with pytest.raises(pa.ArgumentError, match=why):
            machine.spawn("p", image=path)
    with pytest.raises(pa.ArgumentError, match="a program of 32 bits; x86_64 is not"):
        machine.spawn("p", image=small(movable=True))
    with pytest.raises(TypeError, match="image must be a str"):
        machine.spawn("p", image=3)  # type: ignore[arg-type]  # that is the test


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(16, 0x2FF), st.integers(0, 255)), max_size=6))
def test_no_header_breaks_a_machine(changes: list[tuple[int, int]]) -> None:
    """Whatever its headers say, a program starts, or one line says why it cannot."""
    with Path(sys.executable).open("rb") as file:
        data = bytearray(file.read(PAGE))
    for place, value in changes:
        data[place] = value
    for kernel in ("2.6.18", "6.18"):
        machine = pa.Machine(ram="64M", kernel=kernel, arch="x86_64")
        with tempfile.NamedTemporaryFile() as program:
            program.write(data)
            program.flush()
            try:
                process = machine.spawn("p", image=program.name)
            except pa.ArgumentError:
                assert not machine.processes
                continue
        process.check()
        process.malloc(100)
        process.exit()
        machine.check()

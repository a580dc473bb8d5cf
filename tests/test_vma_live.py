"""The model does what the kernel of this machine does, call by call."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import pytest
import vmalive

RELEASE = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])
SETTING = Path("/proc/sys/vm/overcommit_memory")

pytestmark = [
    pytest.mark.skipif(
        platform.machine() != "x86_64" or not (6, 17) <= RELEASE < (6, 19),
        reason="the profile 6.18 is that of kernels 6.17 and 6.18 on x86-64",
    ),
    pytest.mark.skipif(
        not SETTING.exists() or SETTING.read_text().strip() != "0",
        reason="promises are judged as with vm.overcommit_memory 0",
    ),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A file of 64 pages, opened twice, and one that ends within its fourth page."""
    directory = tmp_path_factory.mktemp("mapped")
    large, small = directory / "large", directory / "small"
    if not os.major(directory.stat().st_dev):
        pytest.skip("where files are mapped depends on the file system; this one is no disk's")
    large.write_bytes(bytes(262144))
    small.write_bytes(bytes(12388))
    return [large, large, small]


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
def test_random_calls_end_as_on_this_machine(arch: str, files: list[Path], tmp_path: Path) -> None:
    """Sixty random calls each: results, maps, sizes and flags are the real process's."""
    program = vmalive.build(tmp_path, arch)
    if program is None:
        pytest.skip(f"no compiler for {arch}")
    for seed in range(40):
        assert vmalive.run(program, arch, "6.18", seed, files) is None

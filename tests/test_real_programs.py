"""Programs of every day: each address, the heap's pages, the peak of a run without the recorder.

What a machine does not have is skipped.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import pyalloc as pa
from pyalloc.host.measure import measure
from pyalloc.trace.record import record

FIXED = ["setarch", "-R"] if shutil.which("setarch") else []
SCRIPT = "for i in $(seq 1 8); do x=$(echo $i | tr 1 2); a[$i]=$x; done; echo ${#a[@]}"
COUNT = "{ n[$1 % 1000] += 1; s = s $1 } END { for (k in n) t += n[k]; print t, length(s) }"
HASH = 'my %h; $h{$_} = "x" x ($_ % 90) for 1..20000; delete $h{$_} for 1..9999;'
CHILDREN = (
    "import subprocess, threading\n"
    "def work(n):\n"
    "    kept = [bytes(600 + i % 700) for i in range(3000)]\n"
    "    subprocess.run(['true'])\n"
    "    del kept[::3]\n"
    "threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]\n"
    "[t.start() for t in threads]\n"
    "[t.join() for t in threads]\n"
)
LINE = "info line main"  # by one thread: how several overlap decides the peak
PROGRAMS = {
    "awk": ["awk", COUNT, "INPUT"],
    "bash": ["bash", "-c", SCRIPT],
    "bc": ["bc", "-lq", "SUMS"],
    "bzip2": ["bzip2", "-kc", "INPUT"],
    "diff": ["diff", "INPUT", "OTHER"],
    "find": ["find", "/usr/share", "-name", "*.conf", "-newer", "/etc/passwd"],
    "gdb": ["gdb", "-nx", "-batch", "-iex", "maint set worker-threads 0", "-ex", LINE, "PROGRAM"],
    "git": ["git", "--no-pager", "diff", "--no-index", "--stat", "INPUT", "OTHER"],
    "grep": ["grep", "-cE", "(1|23).*(4|5)+6", "INPUT"],
    "gzip": ["gzip", "-kc", "INPUT"],
    "jq": ["jq", "-s", "map(. % 7) | group_by(.) | map(length) | add", "INPUT"],
    "make": ["make", "-f", "MAKEFILE"],
    "openssl": ["openssl", "dgst", "-sha256", "INPUT"],
    "perl": ["perl", "-e", HASH],
    "python3": ["python3", "-c", CHILDREN],
    "sed": ["sed", "-E", "s/([0-9]+)([0-9])/\\2 \\1/g;$!N;P;D", "INPUT"],
    "sort": ["sort", "-n", "INPUT"],
    "tar": ["tar", "cf", "TAR", "INPUT", "OTHER"],
    "xz": ["xz", "-kc1", "INPUT"],
}  # fmt: skip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the programs read and write."""
    folder = tmp_path_factory.mktemp("files")
    numbers = [str(i * 7919 % 100003) for i in range(20000)]
    texts = {
        "INPUT": "\n".join(numbers) + "\n",
        "OTHER": "\n".join(n for i, n in enumerate(numbers) if i % 97) + "\n",
        "SUMS": "scale=300; 4*a(1)\n2^4000\nquit\n",
        "MAKEFILE": "all: "
        + " ".join(f"t{i}" for i in range(40))
        + "\nt%:\n\t@echo $@ > /dev/null\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    found = {name: str(folder / name) for name in (*texts, "TAR")}
    return found | {"PROGRAM": str(shutil.which("true"))}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_replayed_as_it_ran(
    name: str,
    files: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Every address of every process; no page of the heap too few; a peak as without recorder."""
    if shutil.which(name) is None:
        pytest.skip(f"no {name} here")
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    command = [*FIXED, *(files.get(word, word) for word in PROGRAMS[name])]
    recordings = record(command, tmp_path / "t")
    capfd.readouterr()
    for recording in recordings:
        found = pa.examine(recording.trace(), sites=0)
        assert found.agreement is None or found.agreement.complete, recording.command
        assert not found.replay.errors
        assert not found.trace.info.unknown_frees
        assert recording.truncated is None
        assert recording.warnings == ()
    main = pa.examine(recordings[0].trace(), sites=0)
    assert main.measured is not None
    assert main.measured.heap_rss is not None
    assert main.heap_rss is not None
    assert main.measured.heap_rss <= main.heap_rss
    if name != "python3":  # how threads overlap decides its peak
        alone = min(abs(measure(command).peak_rss - main.measured.program_peak) for _ in range(2))
        assert alone <= (256 << 10) + main.measured.program_peak // 50

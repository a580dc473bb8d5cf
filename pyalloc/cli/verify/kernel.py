"""``pyalloc verify kernel``: the model against the kernel of this host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from pyalloc.cli.options import Count, Flag, Seed, Target
from pyalloc.cli.output import console, print_json, progressing
from pyalloc.host.compile import CompilerMissing
from pyalloc.lab.verify.kernel import (
    KernelVerdict,
    random_specs,
    read_case,
    verify_case,
    verify_kernel,
)
from pyalloc.report.verify import kernel_lines

Word = Literal[64, 32]
Profile = Literal[
    "dense",
    "free",
    "mixed",
    "limit",
    "lock",
    "av",
    "fork",
    "big",
    "file",
    "cache",
    "huge",
    "stack",
    "heap",
    "remap",
    "wild",
]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What was found, word size by word size; ``skipped`` says why one was not run."""

    found: tuple[KernelVerdict, ...]
    skipped: str = ""

    @property
    def agrees(self) -> bool:
        """Whether no word size differs."""
        return all(verdict.agrees for verdict in self.found)

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as JSON values."""
        verdicts = [verdict.to_dict() for verdict in self.found]
        return {"agrees": self.agrees, "verdicts": verdicts, "skipped": self.skipped}


def kernel(
    *,
    sequences: Count = 120,
    calls: Count = 100,
    word: Annotated[list[Word] | None, Parameter(negative="")] = None,
    profile: Annotated[list[Profile] | None, Parameter(negative="")] = None,
    seed: Seed = 0,
    case: Path | None = None,
    save: Target | None = None,
    json: Flag = False,
) -> int:
    """Make random system calls in a process of this host and in the model, and compare each.

    After each call its result, errno or signal, the areas, the sizes in status and the page faults
    must be equal, and at the end each area's smaps.  The first sequence that differs is shrunk and
    saved as a case.

    Parameters
    ----------
    sequences
        How many sequences, for each word size.
    calls
        How many calls each has.
    word
        64 or 32 bits; may be repeated; by default both, if this host can run 32-bit programs.
    profile
        What sequences are about; may be repeated; by default each in turn.
    seed
        Another seed, other sequences.
    case
        A saved case to run in place of random sequences.
    save
        The file for a sequence that differs; by default kernel-case-WORD-SEED.json.
    json
        Print JSON.
    """
    if case is not None:
        verdicts = Verdicts((verify_case(read_case(case)),))
    else:
        verdicts = check(
            sequences=sequences, calls=calls, words=word, profiles=profile or (), seed=seed
        )
    for verdict in verdicts.found:
        if verdict.finding is not None and case is None:
            name = save or Path(f"kernel-case-{verdict.word}-{seed}.json")
            verdict.finding.shortest.write(name)
            if not json:
                console().print(f"saved: {name}", soft_wrap=True)
    if json:
        print_json({"kernel": verdicts.to_dict()})
    else:
        show(verdicts)
    return 0 if verdicts.agrees else 1


def check(
    *,
    sequences: int = 120,
    calls: int = 100,
    words: Sequence[int] | None = None,
    profiles: Sequence[str] = (),
    seed: int = 0,
) -> Verdicts:
    """Verify each word size, with a progress bar."""
    found = []
    for bits in words or (64, 32):
        specs = random_specs(sequences, calls=calls, word=bits, profiles=profiles, seed=seed)
        try:
            with progressing() as progress:
                found.append(verify_kernel(specs, word=bits, progress=progress))
        except CompilerMissing as error:
            if words or bits == 64:
                raise
            return Verdicts(tuple(found), str(error).splitlines()[0])
    return Verdicts(tuple(found))


def show(verdicts: Any) -> None:  # noqa: ANN401 - the verdicts of check()
    """Print verdicts."""
    out = console()
    for verdict in verdicts.found:
        for line in kernel_lines(verdict):
            out.print(line, soft_wrap=True, markup=False)
    if verdicts.skipped:
        out.print(f"32-bit programs are left out: {verdicts.skipped}", soft_wrap=True)

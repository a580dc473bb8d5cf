"""What the benchmarks report: a figure beside its target."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


@dataclass(frozen=True)
class Figure:
    """One line of the table; ``value`` should be at least ``target``, or at most."""

    what: str
    value: float
    unit: str
    target: float
    at_most: bool = False
    real: str = ""
    model: str = ""

    @property
    def good(self) -> bool:
        return self.value <= self.target if self.at_most else self.value >= self.target

    def cells(self) -> tuple[str, ...]:
        bound = "at most" if self.at_most else "at least"
        return (
            self.what,
            self.real,
            self.model,
            f"{self.value:.3g} {self.unit}",
            f"{bound} {self.target:.3g}",
            "yes" if self.good else "no",
        )


@dataclass
class Figures:
    lines: list[Figure] = field(default_factory=list)
    markdown: dict[tuple[str, ...], list[str]] = field(default_factory=dict)  # rows by their head

    def add(self, benchmark: BenchmarkFixture, figure: Figure) -> None:
        """Keep the figure for the table and for the benchmark's own file."""
        self.lines.append(figure)
        benchmark.extra_info.update(
            result=figure.value, unit=figure.unit, target=figure.target, met=figure.good
        )

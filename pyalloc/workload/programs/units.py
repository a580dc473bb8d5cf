"""Types of parameters that a scenario may write with a unit."""

from __future__ import annotations

from typing import Annotated, Final

SIZE: Final = "size"
DURATION: Final = "duration"

Bytes = Annotated[int, SIZE]
"""A parameter in bytes: a scenario may say ``"16M"``."""

Seconds = Annotated[float, DURATION]
"""A parameter in seconds: a scenario may say ``"5min"``."""

FOREVER: Final = float("inf")
"""Seconds that never pass."""

ENDLESS: Final = 1 << 62
"""Bytes that nobody gets."""

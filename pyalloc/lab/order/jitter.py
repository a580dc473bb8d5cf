"""Small changes of order, to see whether a result hangs on them.

Where a heap puts a block depends on every call before it, so that two runs of one program, a few
calls apart, fragment differently.  A saving that disappears when neighbouring calls change places
is luck; so orders are compared on several such neighbours of a program, each order with the very
program it was made from.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from pyalloc.lab.order.calls import ALLOCATION, FREE, Rows
from pyalloc.lab.order.moves import Arrangement, fill

REACH: Final = 16
"""About how many calls of its kind a call may be overtaken by."""


def jittered(a: Arrangement, seed: int, reach: int = REACH) -> Rows:
    """Return the order of ``a`` with neighbouring calls of one kind and thread exchanged.

    One seed moves each block's calls alike in every order.
    """
    calls = a.calls
    noise = np.random.default_rng(seed).random(len(calls.lives.birth))

    def late(_: Arrangement, lives: Rows, __: np.random.Generator) -> npt.NDArray[np.uint64]:
        """Return the turn of each call, a little late."""
        turn = np.arange(len(lives)) + reach * noise[lives]
        found: npt.NDArray[np.uint64] = (turn * 65536).astype(np.uint64)
        return found

    rng = np.random.default_rng(0)  # nothing else is drawn
    fill(a, ALLOCATION, late, rng)
    fill(a, FREE, late, rng)
    return a.order

"""Orders: the same calls in other legal orders, and what each would save.

What would this program hold if it freed last in, first out?  The model is asked, not the program:
the calls of its trace change places, under the rule of :mod:`~pyalloc.lab.order.calls`, inside
windows, and are replayed.  Each order is compared with the program it was made from, call for call
(paired), on several neighbours of it (:mod:`~pyalloc.lab.order.jitter`), or for a workload on
several seeds, so that what is luck can be told from what is not.

======================================  ===========================================================
:mod:`~pyalloc.lab.order.calls`         what holds the calls in place: the rule of legality
:mod:`~pyalloc.lab.order.windows`       how far they may move
:mod:`~pyalloc.lab.order.moves`         the orders by name
:mod:`~pyalloc.lab.order.search`        a search for the best and the worst
:mod:`~pyalloc.lab.order.study`         all of it: :func:`order`
======================================  ===========================================================
"""

from __future__ import annotations

from pyalloc.lab.order.calls import Calls
from pyalloc.lab.order.moves import DEFAULT, MOVES, find_moves
from pyalloc.lab.order.study import METRICS, OrderResult, OrderStudy, order

__all__ = [
    "DEFAULT",
    "METRICS",
    "MOVES",
    "Calls",
    "OrderResult",
    "OrderStudy",
    "find_moves",
    "order",
]

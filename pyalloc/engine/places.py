"""Calls that change places with each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyalloc.engine.border import check, ffi, lib

if TYPE_CHECKING:
    import numpy.typing as npt


def fill_places(
    group: npt.NDArray[np.uint32],
    place: npt.NDArray[np.uint64],
    release: npt.NDArray[np.uint64],
    key: npt.NDArray[np.uint64],
) -> npt.NDArray[np.uint32]:
    """Return which call takes each place, when calls change places inside their groups.

    Parameters
    ----------
    group, place
        Of each call, ascending by both.
    release
        The first place each call may take; its own or an earlier one.
    key
        Of the calls that may take a place, the one of the smallest key does.

    Raises
    ------
    ArgumentError
        A call is released behind its own place.
    """
    taker = np.zeros(len(place), np.uint32)
    by_release = np.lexsort((release, group)).astype(np.uint32)
    status = lib.pa_fill_places(
        len(place),
        ffi.from_buffer("uint32_t[]", group),
        ffi.from_buffer("uint64_t[]", place),
        ffi.from_buffer("uint64_t[]", release),
        ffi.from_buffer("uint32_t[]", by_release),
        ffi.from_buffer("uint64_t[]", key),
        ffi.from_buffer("uint32_t[]", taker, require_writable=True),
    )
    check(status, "putting calls in another order")
    return taker

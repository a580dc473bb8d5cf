"""The column table of calls, its files, other tools' formats, and the recorder.

======================  =====================================================
:mod:`~pyalloc.trace.table`    :class:`Trace`: one row a call, one array a column
:mod:`~pyalloc.trace.ops`      :class:`Op`: the calls
:mod:`~pyalloc.trace.info`     what is known beside the rows
:mod:`~pyalloc.trace.files`    :func:`read_trace` and writing, format found out
:mod:`~pyalloc.trace.parquet`  the native file
:mod:`~pyalloc.trace.formats`  other tools' files
:mod:`~pyalloc.trace.record`   run a command and take down its calls
======================  =====================================================
"""

from __future__ import annotations

from pyalloc.trace.files import read_trace
from pyalloc.trace.info import Measured, Samples, TraceInfo
from pyalloc.trace.ops import NULL_BLOCK, Op
from pyalloc.trace.sites import Site, SiteTable
from pyalloc.trace.summary import SiteTotals, SizeHistogram, TraceSummary
from pyalloc.trace.table import Row, Trace, require_trace

__all__ = [
    "NULL_BLOCK",
    "Measured",
    "Op",
    "Row",
    "Samples",
    "Site",
    "SiteTable",
    "SiteTotals",
    "SizeHistogram",
    "Trace",
    "TraceInfo",
    "TraceSummary",
    "read_trace",
    "require_trace",
]

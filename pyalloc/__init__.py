"""pyalloc: a Linux memory machine you can script."""

from pyalloc.trace import Op, Trace, read_trace

__all__ = ["Op", "Trace", "read_trace"]

"""The command line: one file a verb, parse and print only.

Exit codes: 0 done, 1 the answer is no, 2 wrong usage or bad input (one line on stderr).
"""

from __future__ import annotations

from pyalloc.cli.app import main

__all__ = ["main"]

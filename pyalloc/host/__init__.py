"""The real machine through the same eyes: its C library, its kernel, its live processes.

===============================  ==================================================
:mod:`~pyalloc.host.glibc`       make the calls of a trace on the real library
:mod:`~pyalloc.host.faults`      what the kernel takes for the first write to a page
:mod:`~pyalloc.host.proc`        live ``/proc`` as plain records
:mod:`~pyalloc.host.system`      its memory, promises and settings
:mod:`~pyalloc.host.cgroups`     the memory cgroups of a process, and the nearest limit
:mod:`~pyalloc.host.outlook`     who would be killed now, and what is left before that
:mod:`~pyalloc.host.scan`        scans of memory under a limit, and what they miss
:mod:`~pyalloc.host.compile`     the small C programs that this takes, built on demand
===============================  ==================================================
"""

"""Machine: the object that holds everything else.

A machine is deterministic: the same calls give the same result, byte for byte, and
:meth:`Machine.copy` gives an identical, independent one.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Self

from pyalloc import engine
from pyalloc.arguments import instance, mapping, truth, whole, words
from pyalloc.errors import ArgumentError, EngineBusy, WrongType
from pyalloc.kernel.boot import boot_lines
from pyalloc.kernel.costs import Costs, costs_of
from pyalloc.kernel.elf import Image, read_image
from pyalloc.kernel.execve import exec_layout
from pyalloc.kernel.files import Inode
from pyalloc.kernel.layout import Layout, default_layout, layout_from_maps
from pyalloc.kernel.limits import Limits
from pyalloc.kernel.meminfo import MemoryPages, free_virtual_memory, meminfo
from pyalloc.kernel.oom import OomPolicy, oom_policy
from pyalloc.kernel.paging import PAGING, watermarks
from pyalloc.kernel.proctext import ProcText
from pyalloc.kernel.profiles import kernel_profile
from pyalloc.kernel.zones import Zone, low_pages, zones
from pyalloc.machine import reading
from pyalloc.machine.cgroup import Cgroup, pages_of_limit
from pyalloc.machine.files import File, folio_order
from pyalloc.machine.grace import Grace
from pyalloc.machine.oom import OomEvent
from pyalloc.machine.process import Process
from pyalloc.machine.promises import Promises
from pyalloc.machine.ratelimit import RateLimit
from pyalloc.machine.sysctl import Sysctl
from pyalloc.units import PAGE, format_size, nanoseconds, parse_size

DEFAULT_ALLOCATORS = {"2.6.11": "glibc-2.3.3", "2.6.18": "glibc-2.3.3"}
MODERN_ALLOCATOR = "glibc-2.36"
_LONGEST = (1 << 64) - 1
_MOST_PAGES = (1 << 32) - 2  # the engine numbers frames and slots in 32 bits
_MOST_UID = (1 << 32) - 1
_SHAPES = {2: "i386", 3: "i386-pae", 4: "x86_64"}
"""Page tables by their levels."""


def _policy_of(policy: str | OomPolicy) -> OomPolicy:
    """Return an OOM policy by its name, or the one given."""
    given: object = policy
    if isinstance(policy, str):
        return oom_policy(policy)
    if not callable(getattr(given, "choose", None)):
        message = (
            f"policy must be a name or have a method choose(tasks, totalpages) (got {given!r})"
        )
        raise WrongType(message)
    return policy


def _standing(nice: int, oom_score_adj: int, oom_adj: int) -> tuple[int, int, int]:
    """Return what the OOM killer goes by, if the kernel lets it be set so."""
    return (
        whole(nice, "nice", -20, 19),
        whole(oom_score_adj, "oom_score_adj", -1000, 1000),
        whole(oom_adj, "oom_adj", -17, 15),
    )


def _reserve(value: int | None, name: str) -> int | None:
    return None if value is None else whole(value, name)


class Machine:
    """A Linux machine: memory, swap, one kernel, and the processes on it.

    Parameters
    ----------
    ram, swap
        Bytes, or text such as ``"256M"``; whole pages are used.
    kernel, arch
        A kernel generation (``"2.6.11"``, ``"2.6.18"``, ``"6.12"``, ``"6.18"``) and
        ``"i386"``, ``"i386-compat"``, ``"i386-pae"``, ``"i386-4g4g"`` (2.6 only) or ``"x86_64"``:
        see :mod:`pyalloc.kernel.profiles`.
    cpus
        Processors; an allocator limits its arenas by them.
    overcommit_memory, overcommit_ratio, overcommit_kbytes, admin_reserve_kbytes, \
user_reserve_kbytes
        The sysctls under ``vm.``; the reserves are by default what the kernel sets at boot, 1/32 of
        memory up to 8 and 128 MB.
    reserved
        Bytes of RAM that the kernel and everybody else hold, beyond reclaim.
    swappiness, page_cluster
        The sysctls under ``vm.``.
    huge_pages
        Whether madvise(MADV_HUGEPAGE) gets transparent huge pages, where the kernel has them;
        nobody gets them unasked (``transparent_hugepage/enabled`` is ``madvise`` or ``never``).
    policy
        A name for :func:`pyalloc.oom_policy`, or a policy object; by default the kernel's own.
    disk
        What things cost in simulated time, by the disk that swap and files are on: ``"virtio"``
        (an SSD that says it rotates, as in virtual machines: the default of 6.18, as of its
        recordings), ``"ssd"`` (of 6.12), ``"hdd"`` (of 2.6), ``"none"`` (nothing takes time) or a
        :class:`~pyalloc.kernel.costs.Costs`.
    read_ahead
        Bytes that are read ahead of a file at most (``read_ahead_kb`` of its disk): by default 128K
        for 2.6, 1M for 6.12, and for 6.18 8M, twice the largest request, of a disk that says it
        rotates (``blk_apply_bdi_limits``), else 128K.
    sysctl
        More of them, by their names: ``{"vm.panic_on_oom": 1}``; :attr:`Machine.sysctl` has all of
        them, to be read and written at any time.
    seed
        Kept for workloads; the machine itself uses no chance.

    Raises
    ------
    ArgumentError
        A value lies outside its domain; the text says which.
    """

    def __init__(
        self,
        ram: int | str = "256M",
        swap: int | str = "888M",
        kernel: str = "2.6.18",
        arch: str = "i386",
        cpus: int = 1,
        overcommit_memory: int = 0,
        overcommit_ratio: int = 50,
        overcommit_kbytes: int = 0,
        admin_reserve_kbytes: int | None = None,
        user_reserve_kbytes: int | None = None,
        reserved: int | str = 0,
        swappiness: int = 60,
        page_cluster: int = 3,
        huge_pages: bool = True,
        policy: str | OomPolicy | None = None,
        disk: str | Costs | None = None,
        read_ahead: int | str | None = None,
        sysctl: Mapping[str, int] | None = None,
        seed: int = 0,
    ) -> None:
        self.profile = kernel_profile(words(kernel, "kernel"), words(arch, "arch"))
        self.paging = PAGING[kernel]
        huge_pages = truth(huge_pages, "huge_pages")
        self.huge_pages = huge_pages and self.paging.huge_pages and self.profile.word == 8
        self.cpus = whole(cpus, "cpus", 1)
        self.seed = whole(seed, "seed", -_LONGEST, _LONGEST)
        self.costs = costs_of(disk or self.paging.disk)
        window = (
            self.paging.window(rotates=self.costs.rotates) if read_ahead is None else read_ahead
        )
        self.read_ahead = parse_size(window, "read_ahead") // PAGE
        self.oom_policy = _policy_of(kernel if policy is None else policy)
        self.ram = engine.Ram(
            self._settings(
                parse_size(ram, "ram") // PAGE,
                parse_size(swap, "swap") // PAGE,
                parse_size(reserved, "reserved") // PAGE,
                whole(swappiness, "swappiness", 0, 200),
                whole(page_cluster, "page_cluster", 0, 31),
            )
        )
        ratio = whole(overcommit_ratio, "overcommit_ratio")
        self.sysctl = Sysctl(self)
        self.zones: tuple[Zone, ...] = ()
        self._set_up(
            {
                "vm.overcommit_memory": whole(overcommit_memory, "overcommit_memory", 0, 2),
                "vm.overcommit_ratio": 0 if overcommit_kbytes else ratio,
                "vm.overcommit_kbytes": whole(overcommit_kbytes, "overcommit_kbytes"),
                "vm.admin_reserve_kbytes": _reserve(admin_reserve_kbytes, "admin_reserve_kbytes"),
                "vm.user_reserve_kbytes": _reserve(user_reserve_kbytes, "user_reserve_kbytes"),
                "vm.swappiness": swappiness,
                "vm.page-cluster": page_cluster,
            },
            mapping(sysctl or {}, "sysctl"),
        )
        self.promises = Promises(self)
        self.oom_reports = RateLimit("oom_kill_process")
        self.grace = Grace(self)
        self.processes: dict[int, Process] = {}
        self.ended: list[Process] = []
        self.closed = False
        self.cgroups: dict[str, Cgroup] = {}
        self.oom_events: list[OomEvent] = []
        self.objects_changed = False
        self._objects: dict[Inode, int] = {}
        self.shares = False  # there is, or was, shared memory among them
        self._vdso: int | None = None
        self._log: list[str] = []
        self._next_pid = 1000
        self.occupant: int | None = None  # the thread that runs a trace here
        self._next_inode = 100
        self._log.extend(boot_lines(self.profile, self.total_ram, self._high_pages()))

    def _high_pages(self) -> int:
        return sum(zone.managed for zone in self.zones if zone.name == "HighMem")

    def _set_up(self, given: Mapping[str, int | None], more: Mapping[str, int]) -> None:
        """Start the sysctls."""
        self.sysctl.start(low_pages(self.profile, self.total_ram))
        for name, value in given.items():
            if value is not None:
                self.sysctl.put(name, value)
        self.overcommit = self.sysctl.overcommit()
        self.lay_out_zones()
        for name, value in more.items():
            self.sysctl[name] = value

    def lay_out_zones(self) -> None:
        """Work out zones and their watermarks."""
        settings = self.ram.settings
        self.zones = zones(
            self.profile,
            self.paging,
            settings.count_frames,
            settings.count_reserved,
            self.sysctl["vm.min_free_kbytes"],
            self.sysctl.flag("vm.watermark_scale_factor"),
        )

    def _settings(
        self, frames: int, slots: int, reserved: int, swappiness: int, page_cluster: int
    ) -> engine.RamSettings:
        if not frames or reserved >= frames:
            message = (
                f"a machine needs ram beyond what is reserved (got {format_size(frames * PAGE)},"
                f" {format_size(reserved * PAGE)} of it reserved)"
            )
            raise ArgumentError(message)
        for name, pages in (("ram", frames), ("swap", slots)):
            if pages > _MOST_PAGES:
                most = format_size((_MOST_PAGES + 1) * PAGE)
                message = f"{name} must be less than {most} (got {format_size(pages * PAGE)})"
                raise ArgumentError(message)
        marks = watermarks(frames - reserved, self.paging)
        return engine.RamSettings(
            count_frames=frames,
            count_slots=slots,
            count_reserved=reserved,
            watermark_min=marks.least,
            watermark_low=marks.low,
            watermark_high=marks.high,
            shape=_SHAPES[self.profile.levels],
            rules=self._rules(),
            swappiness=swappiness,
            page_cluster=page_cluster,
            counter_batch=max(32, 2 * self.cpus) if self.paging.counts_by_cpu else 0,
            costs=self.costs.times(),
        )

    def _rules(self) -> frozenset[str]:
        """Return how pages are treated; if no head moves, swap is read by memory's neighbours."""
        modern = self.profile.modern
        further = {"swap_by_area": not self.costs.rotates, "migrates": self.cpus > 1}
        return self.paging.rules | {name for name, holds in further.items() if modern and holds}

    # --- making things ------------------------------------------------------------------

    def cgroup(
        self,
        name: str,
        memory_max: int | str | None = None,
        swap_max: int | str | None = None,
        parent: Cgroup | None = None,
        *,
        memory_high: int | str | None = None,
        oom_group: bool = False,
    ) -> Cgroup:
        """Make a memory cgroup; limits in bytes or text, None is no limit.

        ``memory.max`` counts page tables, too; ``swap_max`` is cgroup v2's ``memory.swap.max``.
        Beyond ``memory_high`` whoever takes pages must reclaim, and wait; with ``oom_group`` the
        OOM killer ends all of it at once.
        """
        if not words(name, "name") or "/" in name:
            message = f"a cgroup's name is a word without slashes (got {name!r}); nest by parent="
            raise ArgumentError(message)
        path = f"{'' if parent is None else self._own(parent, 'parent').path}/{name}"
        if path in self.cgroups:
            message = f"there is a cgroup {path} already"
            raise ArgumentError(message)
        number = self.ram.add_group(
            0 if parent is None else parent.number,
            pages_of_limit(memory_max, "memory_max"),
            pages_of_limit(swap_max, "swap_max"),
        )
        group = Cgroup(self, name, number, parent)
        group.oom_group = truth(oom_group, "oom_group")
        if memory_high is not None:
            group.memory_high = memory_high
        self.cgroups[group.path] = group
        return group

    def _own(self, group: Cgroup, name: str) -> Cgroup:
        """Return a cgroup of this machine."""
        if instance(group, name, Cgroup).machine is not self:
            message = f"{name} {group.path} is another machine's: take it from this one's cgroups"
            raise ArgumentError(message)
        return group

    def spawn(
        self,
        name: str = "prog",
        allocator: str | None = None,
        uid: int = 1000,
        nice: int = 0,
        oom_score_adj: int = 0,
        oom_adj: int = 0,
        rlimit_as: int | str | None = None,
        rlimits: Limits | None = None,
        cgroup: Cgroup | None = None,
        maps: str | None = None,
        brk: int | None = None,
        tunables: Mapping[str, int | str] | None = None,
        layout: Layout | None = None,
        personality: int = 0,
        image: str | Path | Image | None = None,
    ) -> Process:
        """Start a process.

        Parameters
        ----------
        name, uid, nice, oom_score_adj, oom_adj
            Who it is.
        allocator
            A name from :func:`pyalloc.allocators`; by default the C library of the kernel's time.
        rlimit_as
            RLIMIT_AS in bytes; ``rlimits`` sets all limits.
        maps, brk
            Text of a ``/proc/PID/maps`` and a break to begin with; by default a small program
            that has touched nothing yet.  Of the private writable areas in the text one page each
            is in memory.
        tunables
            Allocator settings by their glibc names, such as ``{"mmap_threshold": 65536}``.
        layout
            An address space made by hand, in place of ``maps``.
        image
            An ELF file of this host, in place of the small program: it, and the loader it names,
            are laid out as exec does, up to its first instruction.
        personality
            Of these programs, a sum of :class:`pyalloc.PER`: the bottom-up layout
            (``setarch -L``), 3 GiB for a 32-bit program on a 64-bit kernel (``-3``), reading
            implies executing (``-X``).
        """
        limits = Limits(memlock=self.profile.memlock) if rlimits is None else rlimits
        limits = instance(limits, "rlimits", Limits).of(whole(uid, "uid", 0, _MOST_UID))
        if rlimit_as is not None:
            limits = replace(limits, address_space=parse_size(rlimit_as, "rlimit_as"))
        standing = _standing(nice, oom_score_adj, oom_adj)
        at = None if brk is None else whole(brk, "brk", 0, self.profile.task_size)
        if maps is not None:
            layout = layout_from_maps(words(maps, "maps"), self.profile, brk=at, limits=limits)
        elif layout is None:
            layout = self._exec(image, limits, whole(personality, "personality"))
        own_library = DEFAULT_ALLOCATORS.get(self.profile.name, MODERN_ALLOCATOR)
        words(name, "name")
        allocator = own_library if allocator is None else words(allocator, "allocator")
        process = Process(
            self,
            self.take_pid(),
            name,
            layout=instance(layout, "layout", Layout),
            limits=limits,
            allocator=allocator,
            cgroup=None if cgroup is None else self._own(cgroup, "cgroup"),
            tunables=mapping(tunables or {}, "tunables"),
            uid=uid,
        )
        process.nice, process.oom_score_adj, process.oom_adj = standing
        self.processes[process.pid] = process
        process.take_kernel_memory(self.paging.program_pages, process)
        if (maps is not None or image is not None) and process.alive:
            process.begin(layout.written)
        return process

    def _exec(self, image: str | Path | Image | None, limits: Limits, personality: int) -> Layout:
        """Return the layout of a program that begins."""
        if image is None:
            return default_layout(self.profile, limits, personality=personality)
        if not isinstance(image, Image):
            image = read_image(image if isinstance(image, Path) else words(image, "image"))
        loader = read_image(image.interpreter) if image.interpreter else None
        return exec_layout(self.profile, image, loader, limits, personality=personality)

    def take_pid(self) -> int:
        """Return the next free process number; the heaps of those that have ended go."""
        while self.ended:
            self.ended.pop().heap.heap.release()
        self._next_pid += 1
        return self._next_pid

    def file(
        self,
        name: str,
        size: int | str = 0,
        *,
        cached: bool = True,
        folio: int | str = PAGE,
        tmpfs: bool = False,
    ) -> File:
        """Make a file of ``size`` bytes.

        Parameters
        ----------
        name, size
            A path, and bytes or text such as ``"16M"``.
        cached
            The whole file is in the page cache, clean, as far as there is room; False: it is on
            disk until somebody reads it.
        folio
            Bytes of the pieces it is cached in, a power of two up to 2 MiB, as writes of that size
            leave them.
        tmpfs
            It lives in memory and swap only.

        Raises
        ------
        ArgumentError
            ``folio`` is no such power of two.
        """
        order = folio_order(parse_size(folio, "folio"))
        words(name, "name")
        cached, tmpfs = truth(cached, "cached"), truth(tmpfs, "tmpfs")
        inode = Inode(
            name if name.startswith("/") else f"/{name}",
            number=self.take_inode(),
            major=0 if tmpfs else 8,
            minor=1,
            bytes_size=parse_size(size, "size"),
            shmem=tmpfs,
            promised=tmpfs,
        )
        if cached or tmpfs:
            self.ram.load_object(0, self.object_of(inode), 0, inode.pages, order)
        return File(self, inode)

    def take_inode(self) -> int:
        """Return the next free inode number."""
        self._next_inode += 1
        return self._next_inode

    def drop_caches(self) -> None:
        """Forget every clean file page that nobody maps (``echo 1 > drop_caches``)."""
        for inode, number in self._objects.items():
            self.ram.forget_object(number, 0, inode.pages)

    def object_of(self, inode: Inode) -> int:
        """Return the engine's number of an inode's pages."""
        number = self._objects.get(inode)
        if number is None:
            number = self._objects[inode] = self.ram.add_object(inode.pages, shmem=inode.shmem)
            self.ram.resize_object(number, inode.bytes_size)
            self.shares |= inode.shmem
            if inode.promised:
                self.ram.promise_object(number)
        return number

    def vdso_object(self) -> int:
        """Return the engine's number of the pages behind every process's [vdso]."""
        if self._vdso is None:
            pages = dict(self.profile.vdso).get("[vdso]", 1)
            self._vdso = self.ram.add_object(pages, shmem=False)
            self.ram.load_object(0, self._vdso, 0, pages, 0)
        return self._vdso

    def drop_dead_objects(self) -> None:
        """Forget shared memory that nobody maps any more."""
        self.objects_changed = False
        for inode in [inode for inode in self._objects if inode.unused]:
            self.ram.drop_object(self._objects.pop(inode))

    # --- promises -----------------------------------------------------------------------

    @property
    def total_ram(self) -> int:
        """``MemTotal`` in pages."""
        settings = self.ram.settings
        return settings.count_frames - settings.count_reserved

    @property
    def total_swap(self) -> int:
        """``SwapTotal`` in pages."""
        return self.ram.settings.count_slots

    @property
    def swappiness(self) -> int:
        """``vm.swappiness``."""
        return self.sysctl["vm.swappiness"]

    @property
    def committed(self) -> int:
        """``Committed_AS`` in pages."""
        return self.promises.committed

    def commit_limit(self) -> int:
        """``CommitLimit`` in pages."""
        return self.promises.limit

    def may_promise(self, process: Process, pages: int, more_vm: int = 0) -> bool:
        """Return whether the overcommit policy lets ``process`` have ``pages`` more."""
        return self.promises.allows(process, pages, more_vm)

    def renew_leases(self) -> None:
        """Let every heap know that other rules hold for its break."""
        for process in self.processes.values():
            if process.alive:
                process.heap.sync()
                process.heap.lease()

    def promise_room(self, process: Process, pages: int) -> int:
        """Return how many of ``pages`` could be promised one by one without a question."""
        return self.promises.room(process, pages)

    # --- looking ------------------------------------------------------------------------

    def log(self, text: str) -> None:
        """Append lines to the kernel's log."""
        self._log.extend(text.splitlines())

    def dmesg(self) -> str:
        """Return the kernel's log, from the boot on."""
        return "".join(line + "\n" for line in self._log)

    def memory_pages(self) -> MemoryPages:
        """Return what memory holds, in pages."""
        return reading.memory_pages(self)

    def meminfo(self) -> ProcText[int]:
        """Return ``/proc/meminfo``: its text, and a mapping of fields to kB."""
        self._catch_up()
        return meminfo(self.profile, self.memory_pages())

    def free_virtual_memory(self) -> int:
        """Return free virtual memory in kB as the article counts it.

        That is MemFree + Buffers + Cached + SwapFree: more than can really be had, see
        :meth:`free_memory`.
        """
        return free_virtual_memory(self.meminfo())

    def free_memory(self) -> ProcText[int]:
        """Return the answers to "how much is free?" side by side, in kB.

        ``free virtual memory`` is the article's sum, ``MemAvailable`` the kernel's estimate of what
        can be had without swapping (6.x), ``AVPHYS`` what ``sysconf(_SC_AVPHYS_PAGES)`` says: pages
        that nobody uses at all.
        """
        return reading.free_memory(self)

    def vmstat(self) -> ProcText[int]:
        """Return the lines of ``/proc/vmstat`` that the machine knows, by their names.

        Counters of memory cgroups are added up for whoever looks, as Linux does for
        ``memory.stat``: reclaim, which otherwise knows them as of up to two seconds ago, does then.
        """
        self._catch_up()
        self.ram.flush_stats()
        return reading.vmstat(self)

    def swaps(self) -> ProcText[tuple[int, int]]:
        """Return ``/proc/swaps``: its text, and of each area its size and what is used, in kB."""
        return reading.swaps(self)

    def buddyinfo(self) -> ProcText[list[int]]:
        """Return ``/proc/buddyinfo``: its text, and of each zone the free blocks of each order."""
        self._catch_up()
        return reading.buddyinfo(self)

    def zoneinfo(self) -> ProcText[dict[str, int]]:
        """Return ``/proc/zoneinfo``: free pages, watermarks and sizes of each zone."""
        self._catch_up()
        return reading.zoneinfo(self)

    def ps(self) -> ProcText[str]:
        """Return a table of the processes that are alive, as ``ps -o pid,vsz,rss,stat,args``."""
        rows = {}
        for process in self.processes.values():
            if process.alive:
                process.catch_up()
                kb = PAGE // 1024
                size, rss = process.space.total_vm * kb, process.resident().total * kb
                rows[str(process.pid)] = f"{process.pid:7} {size:8} {rss:7} S    {process.name}"
        text = "    PID      VSZ     RSS STAT COMMAND\n"
        return ProcText(text + "".join(row + "\n" for row in rows.values()), rows)

    def _catch_up(self) -> None:
        self.grace.pass_by()
        for process in self.processes.values():
            process.catch_up()

    @property
    def clock(self) -> float:
        """Simulated seconds since the machine was made: see :mod:`pyalloc.kernel.costs`."""
        return self.ram.time / 1e9

    def advance(self, seconds: float) -> None:
        """Let time pass: processes age, and the disk goes on with what it was asked to write."""
        self.ram.pass_time(nanoseconds(seconds), 0)

    def check(self) -> None:
        """Raise EngineBug unless every invariant of the machine holds."""
        self.ram.check()
        for process in self.processes.values():
            if process.alive:
                process.check()

    def __repr__(self) -> str:
        ram, swap = (format_size(n * PAGE) for n in (self.total_ram, self.ram.settings.count_slots))
        count = len(self.processes)
        return (
            f"<Machine Linux {self.profile.name} {self.profile.arch}: {ram} of RAM, {swap} of swap,"
            f" {count} process{'' if count == 1 else 'es'}>"
        )

    @contextlib.contextmanager
    def entered(self, process: Process) -> Iterator[None]:
        """Keep other threads out while the engine makes the calls of a trace.

        It does so without Python's lock, and would not notice somebody else in its memory.

        Raises
        ------
        EngineBusy
            Another thread has entered already.
        """
        self.require_mine()
        before, self.occupant = self.occupant, threading.get_ident()
        process.close_entries()
        try:
            yield
        finally:
            self.occupant = before
            process.bind()

    def require_mine(self) -> None:
        """Raise EngineBusy if another thread runs a trace on this machine."""
        if self.occupant not in (None, threading.get_ident()):
            message = (
                "another thread runs a trace on this machine: one machine is one thread's;"
                " give each thread a machine of its own (Machine.copy)"
            )
            raise EngineBusy(message)

    # --- the end ------------------------------------------------------------------------

    def close(self) -> None:
        """End the machine and all processes, and give the host's memory back at once.

        Otherwise Python does so when it comes across a machine that nobody holds.  A loop that
        makes many is faster with it: the next machine gets the memory.  What has been read stays;
        calls on a closed machine or its processes are errors.  In a ``with`` statement a machine
        closes itself.
        """
        self.require_mine()
        for process in self.processes.values():
            if process.alive:
                process.forget()
        while self.ended:
            self.ended.pop().heap.heap.release()
        if not self.closed:
            self.ram.release()
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- copying ------------------------------------------------------------------------

    def copy(self) -> Machine:
        """Return an identical machine; what happens on one does not show on the other."""
        self.require_mine()
        ram = self.ram.copy()
        memo: dict[int, Any] = {id(self.ram): ram, id(self.oom_policy): self.oom_policy}
        for value in (self.profile, self.paging, self.promises.policy, self.overcommit, self.zones):
            memo[id(value)] = value
        for process in self.processes.values():
            table, heap = process.pages.table, process.heap.heap
            twin = ram.pages(table.number) if process.alive else engine.Pages()
            memo[id(table)] = twin
            memo[id(heap)] = heap.copy(twin if process.alive else None)
        machine = Machine.__new__(Machine)
        memo[id(self)] = machine
        machine.__dict__.update(copy.deepcopy(vars(self), memo))
        for process in machine.processes.values():
            process.bind()
        machine.occupant = None
        return machine

    def __copy__(self) -> Machine:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Machine:
        return self.copy()

    def __reduce__(self) -> NoReturn:
        """Tell that a machine, and what lives on it, cannot go to another process."""
        message = (
            "a machine, its processes and its files live in the process that made them and cannot"
            " be pickled: send a trace or a scenario, run it there, and send its figures back"
        )
        raise WrongType(message)

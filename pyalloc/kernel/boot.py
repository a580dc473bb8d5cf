"""What the kernel says of memory when it boots: the ``Memory:`` line of dmesg.

Sources: ``arch/i386/mm/init.c`` of Linux 2.6.11 and 2.6.18, ``mm/mm_init.c`` of 6.12; the article's
line, ``Memory: 255716k/262080k available (2083k kernel code, 5772k reserved, 637k data, 172k init,
0k highmem)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from pyalloc.kernel.profiles import KernelProfile
from pyalloc.units import PAGE

_KB: Final = PAGE // 1024


@dataclass(frozen=True, slots=True)
class KernelImage:
    """A kernel in memory, in kB.

    ``reserved`` is what is taken before the first allocation; it contains code, data and ``init``,
    of which the last is freed at the end of the boot.  ``holes`` are addresses without memory, and
    ``cached`` free pages on no list that the line counts (per-CPU lists).
    """

    code: int
    data: int
    init: int
    reserved: int
    holes: int = 0
    cached: int = 0
    rodata: int = 0
    bss: int = 0


ARTICLE_IMAGE: Final = KernelImage(2083, 637, 172, 5772, holes=536, cached=56)
"""Of the article's machine; 14 pages on per-CPU lists are 2.6.11's batch for 61424 pages."""
MODERN_IMAGE: Final = KernelImage(
    code=20480, data=3686, init=3428, reserved=481204, rodata=8192, bss=3472
)
"""Of a distribution's 6.x on x86-64."""


def image_of(profile: KernelProfile) -> KernelImage:
    """Return a kernel image of the generation."""
    return MODERN_IMAGE if profile.modern else ARTICLE_IMAGE


def boot_lines(profile: KernelProfile, pages: int, high_pages: int = 0) -> Iterator[str]:
    """Yield the lines about memory for a machine whose MemTotal is ``pages``.

    >>> from pyalloc.kernel.profiles import kernel_profile
    >>> next(boot_lines(kernel_profile("2.6.11", "i386"), 63986))[:36]
    'Memory: 255716k/262080k available (2'
    """
    image, total = image_of(profile), pages * _KB
    if image.init + image.cached > total:  # a smaller machine needs a smaller kernel
        image = replace(image, init=min(image.init, total), cached=0)
    spanned = total - image.init + image.reserved + image.holes
    available = total - image.init - image.cached
    if profile.modern:
        yield (
            f"Memory: {available}K/{spanned}K available ({image.code}K kernel code,"
            f" {image.data}K rwdata, {image.rodata}K rodata, {image.init}K init, {image.bss}K bss,"
            f" {image.reserved}K reserved, 0K cma-reserved)"
        )
        yield f"Freeing unused kernel image (initmem) memory: {image.init}K"
        return
    yield (
        f"Memory: {available}k/{spanned}k available ({image.code}k kernel code,"
        f" {image.reserved}k reserved, {image.data}k data, {image.init}k init,"
        f" {high_pages * _KB}k highmem)"
    )
    yield f"Freeing unused kernel memory: {image.init}k freed"

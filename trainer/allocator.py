"""How this process's C library treats memory that is freed."""

import ctypes

# Of malloc.h. What is larger than 32 MB is always given back.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _LARGEST_BYTES = 256 * 2**20, 32 * 2**20


def keep_freed_memory() -> None:
    """Keep up to 256 MB of what is freed, for the next step's tensors, which are of the same sizes.

    By default glibc gives a step's megabytes back to the system and asks for them again, page by page, in the next.
    Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)

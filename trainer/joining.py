"""How the processes of one attempt find each other in a store that outlives attempts.

torchrun keeps one store over all restarts, full of the addresses of dead processes, for which a process may wait
(pytorch issue 135712). Its count of restarts does not tell attempts apart: with a rendezvous between several machines
it differs from one to the other.
"""

import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

_PAUSE_SECONDS = 0.02


def store_of_attempt(store: Store, rank: int, size: int, timeout: timedelta) -> Store:
    """A part of `store` for those `size` processes alone that are calling this now.

    The first process names the attempt. The others each leave a word of their own, are answered under that word, and
    say that they have read it: neither words nor answers that were left by earlier attempts mislead them.

    Raises:
        RuntimeError: not all have come within `timeout`.
    """
    own = uuid.uuid4().hex
    if rank:
        store.set(f"word/{rank}", own)
        store.wait([f"answer/{own}"], timeout)
        attempt = store.get(f"answer/{own}").decode()
        store.set(f"{attempt}/{rank}", "here")
        return PrefixStore(attempt, store)
    deadline = time.monotonic() + timeout.total_seconds()
    answered: dict[int, bytes] = {}
    while missing := [other for other in range(1, size) if not store.check([f"{own}/{other}"])]:
        for other in missing:
            if store.check([f"word/{other}"]) and (word := store.get(f"word/{other}")) != answered.get(other):
                store.set(f"answer/{word.decode()}", own)
                answered[other] = word
        if time.monotonic() > deadline:
            raise dist.DistStoreError(f"of {size} processes, those of rank {missing} have not come")
        time.sleep(_PAUSE_SECONDS)
    return PrefixStore(own, store)

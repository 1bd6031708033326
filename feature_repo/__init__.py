"""The Feast repository, and the PostgreSQL connection that every part of the project shares.

Feast puts typeguard's ``typechecked`` on its classes, which finds, reads and parses the module's source again for every
method: more than half of the five seconds that each process takes to import Feast. Whoever imports anything of this
package before Feast gets Feast's classes without it; our definitions are checked by mypy. Others' classes keep theirs.
"""

from functools import partial
from typing import Any

import typeguard

_instrumented = typeguard.typechecked


def _typechecked(target: Any = None, **options: Any) -> Any:
    if target is None:
        return partial(_typechecked, **options)
    return target if target.__module__.startswith("feast.") else _instrumented(target, **options)


typeguard.typechecked = _typechecked

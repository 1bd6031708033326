"""Links in the UI from an asset to the code that makes it."""

import warnings
from collections.abc import Sequence
from typing import cast

import dagster as dg


def with_code_references(assets: Sequence[dg.AssetsDefinition]) -> Sequence[dg.AssetsDefinition]:
    """The same assets, each naming the file and line of its function."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return cast(Sequence[dg.AssetsDefinition], dg.with_source_code_references(assets))

"""Names and labels by which a job is found again: the same for every process that asks for the same work."""

import hashlib
import re

import dagster as dg

from forecast_assets.trainjob.observation import ASSET_LABEL, ATTEMPT_LABEL, OWNER_LABELS, RUN_LABEL

# Kubernetes adds "-node-0-0" and five characters for a pod, and a host name has 63 at most.
_SLUG_CHARACTERS = 30
_LABEL_CHARACTERS = 63


def identity_of(context: dg.AssetExecutionContext) -> str:
    """What an execution is an attempt at: the assets and partition of a run, or of the run that it repeats."""
    root_run = context.run.root_run_id or context.run.run_id
    keys = sorted(key.to_user_string() for key in context.selected_asset_keys)
    partition = context.partition_key if context.has_partition_key else ""
    return "\n".join([root_run, *keys, partition])


def job_name(context: dg.AssetExecutionContext, identity: str, attempt: int) -> str:
    """A DNS label: the asset, a hash of the identity, the attempt's number."""
    slug = _slug(_asset_path(context))[:_SLUG_CHARACTERS].strip("-")
    digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
    return f"{slug if slug[:1].isalpha() else f'job-{slug}'}-{digest}-{attempt}"


def job_labels(context: dg.AssetExecutionContext, attempt: int) -> dict[str, str]:
    """By which jobs are listed. The run is the one that submits the job; another may adopt it."""
    return {
        **OWNER_LABELS,
        RUN_LABEL: context.run.run_id,
        ASSET_LABEL: re.sub(r"[^A-Za-z0-9._-]", "-", _asset_path(context))[:_LABEL_CHARACTERS].strip("._-"),
        ATTEMPT_LABEL: str(attempt),
    }


def _asset_path(context: dg.AssetExecutionContext) -> str:
    return ".".join(min(context.selected_asset_keys).path)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")

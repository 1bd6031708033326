"""Ended jobs and the records of their messages are kept for a while for the reader, then removed."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from forecast_assets.trainjob.observation import OWNER_LABELS, JobPlatform


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """How long an ended job is kept, from its end. Jobs of others are never touched."""

    keep: timedelta = timedelta(days=7)

    def clean_up(self, platform: JobPlatform, records: Path | None) -> int:
        """Remove what is older; returns the number of jobs removed."""
        oldest = datetime.now(UTC) - self.keep
        jobs = platform.list_jobs(OWNER_LABELS)
        old = [job for job in jobs if job.ended and (ended := job.ended_at or job.created_at) and ended < oldest]
        for job in old:
            # Another process may have removed it, too, and started it anew since.
            platform.delete(job.name, job.uid)
        kept = {job.name for job in jobs} - {job.name for job in old}
        for record in records.iterdir() if records is not None and records.is_dir() else ():
            written = datetime.fromtimestamp(record.stat().st_mtime, UTC)
            if record.name.rpartition(".")[0] not in kept and written < oldest:
                shutil.rmtree(record, ignore_errors=True)
        return len(old)

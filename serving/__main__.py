"""``python -m serving``: listens as ``SERVING_*`` say."""

import logging
import os
import sys
import tempfile

import uvicorn

from serving.metrics import MULTIPROCESS_DIR
from serving.settings import Settings


def main() -> int:
    """Serve until a signal ends it. Returns the exit status: 2 for settings that cannot be used."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = Settings.from_environment()
    except ValueError as error:
        print(f"the service was not started: {error}", file=sys.stderr)
        return 2
    print(f"Forecasts at http://{settings.host}:{settings.port}, the interface at /docs; Ctrl-C ends it", flush=True)
    with tempfile.TemporaryDirectory(prefix="serving-metrics-") as folder:
        if settings.workers > 1:
            # Each worker counts for itself; this is where they show it to each other.
            os.environ[MULTIPROCESS_DIR] = folder
        uvicorn.run(
            "serving.app:create_app",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            access_log=False,
            log_level="warning",
            # Longer than a proxy keeps one (60 s is usual): else a request can meet a connection that is being closed.
            timeout_keep_alive=75,
            timeout_graceful_shutdown=settings.shutdown_seconds,
            # A worker that is importing does not answer its supervisor, who would replace it after five seconds.
            timeout_worker_healthcheck=60,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

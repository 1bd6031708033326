"""Posting JSON to a webhook, a few times at most."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

ATTEMPTS = 3
TIMEOUT_SECONDS = 5
FIRST_PAUSE_SECONDS = 1.0


class DeliveryError(Exception):
    """A message was not delivered. The text names the host alone: a webhook's address is a secret."""


def post(url: str, message: Mapping[str, object]) -> None:
    """Post ``message``; again after 1 and 4 seconds, if the other side is away, busy or in trouble.

    Raises:
        DeliveryError: it was refused, or not delivered in three attempts.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DeliveryError("the webhook's address is not an http or https address")
    body = json.dumps(message).encode()
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(FIRST_PAUSE_SECONDS * 4 ** (attempt - 1))
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            url, data=body, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310 - the scheme was checked
                return
        except urllib.error.HTTPError as error:
            problem = f"answers {error.code}"
            error.close()
            if error.code < HTTPStatus.INTERNAL_SERVER_ERROR and error.code != HTTPStatus.TOO_MANY_REQUESTS:
                raise DeliveryError(f"the webhook at {parts.hostname} {problem}") from None
        except OSError as error:  # URLError and time-outs are among them
            problem = f"cannot be reached ({getattr(error, 'reason', None) or type(error).__name__})"
    raise DeliveryError(f"the webhook at {parts.hostname} {problem}, in {ATTEMPTS} attempts")

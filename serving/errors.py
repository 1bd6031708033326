"""Why a request cannot be answered now."""


class UnavailableError(RuntimeError):
    """It may be answered a moment later: 503."""


class NotReadyError(UnavailableError):
    """There is no model or no feature store yet."""


class BusyError(RuntimeError):
    """Too much is being asked for at once: 429."""

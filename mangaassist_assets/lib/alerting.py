"""Messages to people by a webhook: one JSON object by POST, or nothing but the log where no address is set.

The address of a webhook is a secret, because who knows it can write there: no message, log line or error holds more of it than the host.
"""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mangaassist_assets.lib.errors import BadInput, Unavailable

MOST_CHARS = 2000


@dataclass(frozen=True)
class AlertSettings:
    """Where alerts go.

    Attributes:
        webhook_url: takes JSON by POST, in which `text` is the message that people read. Empty: the log only.
        timeout_s: longest wait for an answer.
        attempts: how often one alert is sent before it is given up.
        every_s: seconds from one look at the drift table to the next.
    """

    webhook_url: str = field(default="", repr=False)
    timeout_s: float = 5.0
    attempts: int = 3
    every_s: int = 300

    def __post_init__(self) -> None:
        if self.webhook_url and not (self.webhook_url.startswith(("https://", "http://")) and self.host):
            raise BadInput(
                "not an address of http or https (not shown, it is a secret)", where="alerts.webhook_url", remedy="Give https://host/path."
            )
        if not (0 < self.timeout_s <= 60 and 1 <= self.attempts <= 10 and self.every_s >= 1):
            raise BadInput(
                f"timeout_s {self.timeout_s}, attempts {self.attempts}, every_s {self.every_s} cannot be used",
                where="alerts",
                remedy="Give a timeout up to 60 s, 1 to 10 attempts and every_s of 1 or more.",
            )

    @property
    def host(self) -> str:
        """The part of the address that may be shown."""
        return urlsplit(self.webhook_url).hostname or ""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A webhook that points elsewhere is not followed: the message is for the host that was set."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def send(payload: Mapping[str, Any], settings: AlertSettings, *, pause: Callable[[float], None]) -> bool:
    """Posts `payload` as JSON; False where no address is set.

    Args:
        payload: with a `text` for people and an `id` by which a receiver knows an alert that comes twice.
        settings: where to.
        pause: called with seconds between attempts.

    Raises:
        Unavailable: the webhook did not take it in `attempts` attempts.
    """
    if not settings.webhook_url:
        return False
    body = json.dumps(dict(payload), ensure_ascii=False, default=str).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "mangaassist"}
    request = urllib.request.Request(settings.webhook_url, body, headers, method="POST")
    opener = urllib.request.build_opener(_NoRedirects)
    problem = ""
    for attempt in range(settings.attempts):
        if attempt:
            pause(min(2.0**attempt, 10.0))
        try:
            with opener.open(request, timeout=settings.timeout_s):
                return True
        except urllib.error.HTTPError as error:
            problem = f"it answered {error.code}"
            error.close()
            if error.code < 500 and error.code != 429:  # the same words would be refused again
                break
        except (OSError, http.client.HTTPException) as error:
            problem = type(error).__name__  # its text may hold the address
    raise Unavailable(f"webhook at {settings.host}: {problem}; the alert is in the log alone. Check alerts.webhook_url.") from None


def shortened(text: str) -> str:
    """Text for an alert: one paragraph of at most MOST_CHARS characters."""
    line = " ".join(text.split())
    return line if len(line) <= MOST_CHARS else f"{line[: MOST_CHARS - 1]}…"

"""Golden messages put to a running service: the same ones each day, so that a worse answer is the model's doing, or of what reaches it."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mangaassist_assets.lib.drift.ingestion import chosen
from mangaassist_assets.lib.errors import BadInput, MissingEvidence, Unavailable

AT_ONCE = 32  # texts of a request
SALT = "probes"
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Probed:
    """What came of it: messages that were asked, and those answered with their label."""

    n: int
    right: int


def probe(url: str, labels: Mapping[str, str], count: int) -> Probed:
    """Asks the service at `url` at most `count` golden messages, the same ones each time, marked as probes.

    Args:
        url: of the service, such as http://127.0.0.1:3000.
        labels: right intent by text.
        count: how many.

    Raises:
        BadInput: `url` is no address of http or https.
        MissingEvidence: there is no golden message.
        Unavailable: the service cannot be reached, or refuses.
    """
    if not url.startswith(("http://", "https://")):
        raise BadInput(f"{url!r} is no address of http or https", where="url", remedy="Give one such as http://127.0.0.1:3000.")
    if not labels:
        raise MissingEvidence("there is no golden message to ask. Give some labelled messages the split `golden`, then `mangaassist run`.")
    texts = chosen(labels, count, salt=SALT)
    intents = [intent for start in range(0, len(texts), AT_ONCE) for intent in _ask(url, texts[start : start + AT_ONCE])]
    return Probed(len(texts), sum(labels[text] == intent for text, intent in zip(texts, intents, strict=True)))


def _ask(url: str, texts: Sequence[str]) -> Iterator[str]:
    body = json.dumps({"texts": texts, "probe": True}, ensure_ascii=False).encode()
    request = urllib.request.Request(f"{url.rstrip('/')}/v1/classify", body, {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
            answer: dict[str, Any] = json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            raise Unavailable(f"{url}: the service refuses the probes ({error.code}): {_said(error.read())}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable(f"{url}: no service answers there ({type(error).__name__}). Start it: `mangaassist serve`.") from None
    return (str(result["intent"]) for result in answer["results"])


def _said(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "Look at its log."

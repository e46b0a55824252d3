"""Amazon Titan Text Embeddings V2 through Bedrock, within a budget.

The service takes one text a call, so many calls run at the same time. What a call costs is reckoned from the tokens that Bedrock
reports; before each call its highest possible cost is reserved, so that no number of calls in flight can pass the budget.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.errors import BadInput, Unavailable
from mangaassist_assets.lib.retrieval.space import EmbeddingSpace

TITAN: Final = "titan"
DIMENSIONS: Final = (256, 512, 1024)
MAX_CHARS: Final = 50_000  # and 8,192 tokens: docs.aws.amazon.com/bedrock, "Amazon Titan Text Embeddings models"
MAX_TOKENS: Final = 8192
BUSY: Final = (
    "throttlingexception",
    "serviceunavailableexception",
    "internalserverexception",
    "modelnotreadyexception",
    "modelerrorexception",
    "modeltimeoutexception",
)
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TitanSettings:
    """What to ask, and what it may cost.

    Attributes:
        budget_usd: never exceeded by one encoder; 0 means that Titan is never called.
        model_id: model or inference profile.
        region: of the endpoint; None takes the one that AWS is configured with.
        dimensions: of a vector: 256, 512 or 1024.
        usd_per_1k_tokens: the model's price for input; output costs nothing.
        parallel: calls at the same time.
        attempts: tries of one call that Bedrock is too busy for.
        first_wait_s, longest_wait_s: bounds of the wait before another try; it doubles, and a random share of it is waited.
        timeout_s: longest wait for one answer.
    """

    budget_usd: float = 0.0
    model_id: str = "amazon.titan-embed-text-v2:0"
    region: str | None = None
    dimensions: int = 1024
    usd_per_1k_tokens: float = 0.00002
    parallel: int = 8
    attempts: int = 8
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        remedy = "Correct it in mangaassist.toml."
        if self.dimensions not in DIMENSIONS:
            raise BadInput(f"{self.dimensions} is none of 256, 512, 1024", where="retrieval.encoding.titan.dimensions", remedy=remedy)
        at_least_zero = ("budget_usd", "usd_per_1k_tokens", "first_wait_s", "longest_wait_s")
        at_least_one = ("parallel", "attempts", "timeout_s")
        for name in (*at_least_zero, *at_least_one):
            value, low = getattr(self, name), int(name in at_least_one)
            if not (math.isfinite(value) and value >= low):
                raise BadInput(f"{value} is below {low} or not finite", where=f"retrieval.encoding.titan.{name}", remedy=remedy)


class TitanEncoder:
    """Titan's vectors, asked for with `normalize`.

    Args:
        settings: model, price, budget.
        client: a `bedrock-runtime` client; None makes one of boto3 at the first call.
        sleep: waits, in seconds.
    """

    def __init__(self, settings: TitanSettings, *, client: Any = None, sleep: Callable[[float], None] = time.sleep) -> None:
        self.settings = settings
        self.spent_usd = 0.0
        self.retries = 0
        told = digest_of({"model_id": settings.model_id, "dimensions": settings.dimensions, "normalize": True})
        self.space = EmbeddingSpace(settings.model_id, told, "provider", True, settings.dimensions)
        self._client, self._sleep, self._lock = client, sleep, threading.Lock()
        self._reserved_usd = 0.0

    def encode(self, texts: Sequence[str], *, queries: bool = False) -> Floats:
        """Unit vectors (n, D). Titan has no prompts: `queries` changes nothing.

        Raises:
            BadInput: a text is empty or longer than Titan takes, or the budget does not last.
            Unavailable: no credentials, no region, no access; or Bedrock stayed too busy.
        """
        for text in texts:
            if not text.strip() or len(text) > MAX_CHARS:
                raise BadInput(
                    f"a text of {len(text):,} characters; Titan takes 1 to {MAX_CHARS:,}",
                    where="Titan",
                    remedy="Split the document, or leave it out.",
                )
        out = np.empty((len(texts), self.space.dimension), np.float32)
        if texts:
            self._bedrock()  # boto3's default session is not safe to create clients from in several threads
            with ThreadPoolExecutor(min(self.settings.parallel, len(texts))) as pool:
                for row, vector in enumerate(pool.map(self._call, range(len(texts)), texts)):
                    out[row] = vector
        return out

    def _call(self, row: int, text: str) -> Floats:
        from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError, ReadTimeoutError, ResponseStreamingError

        s = self.settings
        body = json.dumps({"inputText": text, "dimensions": s.dimensions, "normalize": True}, ensure_ascii=False)
        highest = min(len(text.encode("utf-8", "replace")) + 1, MAX_TOKENS) * s.usd_per_1k_tokens / 1000  # no token is shorter than a byte
        rng = Random(f"titan {row}")
        for attempt in range(s.attempts):
            if attempt:
                with self._lock:
                    self.retries += 1
                self._sleep(rng.uniform(0, min(s.longest_wait_s, s.first_wait_s * 2 ** (attempt - 1))))
            self._reserve(highest)
            cost = 0.0
            try:
                response = self._bedrock().invoke_model(
                    modelId=s.model_id, body=body, contentType="application/json", accept="application/json"
                )
                cost = highest
                answer = json.loads(response["body"].read())
                vector = np.asarray(answer["embedding"], np.float32)
                cost = int(answer["inputTextTokenCount"]) * s.usd_per_1k_tokens / 1000
            except ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                if code.lower() not in BUSY:
                    reason = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
                    raise Unavailable(f"Bedrock, {s.model_id}: {code}. {reason}") from error
                cost = highest if code.lower() == "modeltimeoutexception" else 0.0  # it may have been charged
                continue
            except (ReadTimeoutError, ConnectionClosedError, ResponseStreamingError):
                cost = highest
                continue
            except BotoCoreError as error:
                raise Unavailable(f"Bedrock, {s.model_id}: {' '.join(str(error).split())}") from error
            except (ValueError, KeyError, TypeError) as error:
                raise Unavailable(f"Bedrock, {s.model_id}: an answer without embedding and inputTextTokenCount") from error
            finally:
                self._settle(highest, cost)
            if vector.shape != (s.dimensions,):
                raise Unavailable(f"Bedrock, {s.model_id}: a vector of shape {vector.shape} instead of ({s.dimensions},)")
            return vector / max(float(np.linalg.norm(vector)), float(np.finfo(np.float32).tiny))
        raise Unavailable(f"Bedrock, {s.model_id}: too busy after {s.attempts} tries. Try again later; batches that are embedded are kept.")

    def _reserve(self, highest_usd: float) -> None:
        with self._lock:
            if self.spent_usd + self._reserved_usd + highest_usd > self.settings.budget_usd:
                raise BadInput(
                    f"the budget of {self.settings.budget_usd:g} USD does not last ({self.spent_usd:.6f} spent)",
                    where="retrieval.encoding.titan.budget_usd",
                    remedy="Raise it and run again; batches that are embedded are kept.",
                )
            self._reserved_usd += highest_usd

    def _settle(self, reserved_usd: float, cost_usd: float) -> None:
        with self._lock:
            self._reserved_usd -= reserved_usd
            self.spent_usd += cost_usd

    def _bedrock(self) -> Any:
        """The client; without tries of its own, since each has to be reckoned here."""
        if self._client is None:
            import boto3
            from botocore.config import Config

            s = self.settings
            config = Config(retries={"total_max_attempts": 1}, read_timeout=s.timeout_s, max_pool_connections=s.parallel)
            self._client = boto3.client("bedrock-runtime", region_name=s.region, config=config)
        return self._client

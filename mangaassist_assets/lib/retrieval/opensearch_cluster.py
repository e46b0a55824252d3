"""One OpenSearch cluster as this project talks to it: waits while it is busy, resends what it refused, and says what else went wrong."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from mangaassist_assets.lib.errors import BadInput, Conflict, MangaAssistError, MissingEvidence, Unavailable

T = TypeVar("T")
BUSY: Final = frozenset({408, 429, 502, 503, 504})  # 408 is how _cluster/health says that a state wasn't reached in time
FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0


@dataclass(frozen=True)
class OpenSearchSettings:
    """Where the cluster is and how its indexes are made: OpenSearch 2.16 or newer with its k-NN plugin, or the Amazon service of it.

    Attributes:
        url: `https://user:password@host:9200`; "" means that OpenSearch is not used.
        alias: names the serving index; every index is called `<alias>-<digest>`.
        aws_region: signs requests for Amazon OpenSearch Service in this region with AWS credentials; None uses those of the URL.
        shards, replicas: of every index. Replicas are added after the build, which copies graphs rather than building them twice.
        m, ef_construction: of the HNSW graphs.
        ef_search: candidates that a graph search keeps; more are found and it takes longer.
        bulk_rows: chunks in one bulk request; one of 384 dimensions takes about 5 KB.
        parallel: bulk requests at the same time.
        timeout_s: longest wait for one answer.
        patience_s: how long a build waits in all for a cluster that is busy or away, before it gives up; then it resumes where it was.
        search_patience_s: the same for a query.
        keep_days: how long an index is kept after another took its place.
    """

    url: str = field(default="", repr=False)  # it may hold a password
    alias: str = "mangaassist-chunks"
    aws_region: str | None = None
    shards: int = 1
    replicas: int = 1
    m: int = 16
    ef_construction: int = 128
    ef_search: int = 128
    bulk_rows: int = 1000
    parallel: int = 2
    timeout_s: float = 60.0
    patience_s: float = 300.0
    search_patience_s: float = 1.0
    keep_days: float = 7.0

    def __post_init__(self) -> None:
        whole = ("shards", "m", "ef_construction", "ef_search", "bulk_rows", "parallel")
        for name in (*whole, "replicas", "patience_s", "search_patience_s", "keep_days"):
            least = int(name in whole)
            if not getattr(self, name) >= least:
                raise BadInput(
                    f"{getattr(self, name)} is below {least}",
                    where=f"retrieval.opensearch.{name}",
                    remedy="Correct it in mangaassist.toml.",
                )


@dataclass(frozen=True)
class Written:
    """What became of a bulk: chunks written or deleted, and chunks of which the index already has a later version."""

    done: int
    superseded: int


class Cluster:
    """A connection with patience. Close it, or use it as a context.

    Args:
        settings: where it is.
        sleep: waits, in seconds.
    """

    def __init__(self, settings: OpenSearchSettings, *, sleep: Callable[[float], None] = time.sleep) -> None:
        from opensearchpy import OpenSearch, Urllib3AWSV4SignerAuth

        self.settings = settings
        self._sleep = sleep
        parts = urlsplit(settings.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput(
                "not an http or https address", where="retrieval.opensearch.url", remedy='Write it as "https://user:password@host:9200".'
            )
        self.name = f"OpenSearch at {parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        more: dict[str, Any] = {}
        if settings.aws_region is not None:
            import boto3

            credentials = boto3.Session().get_credentials()
            if credentials is None:
                raise Unavailable(f"{self.name}: no AWS credentials to sign requests with; log in, or set AWS_PROFILE")
            more["http_auth"] = Urllib3AWSV4SignerAuth(credentials, settings.aws_region)
        # No tries of the client's own: it would wait neither for a 429 nor longer than a moment.
        self._client: Any = OpenSearch(
            settings.url, timeout=settings.timeout_s, max_retries=0, http_compress=True, pool_maxsize=max(16, settings.parallel), **more
        )

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def ask(self, request: Callable[[Any], T], *, patience_s: float | None = None) -> T:
        """What `request` returns, given the client; asked again while the cluster is busy or away.

        Requests must be such that sending one twice does no harm.

        Raises:
            Unavailable: busy or away for longer than `patience_s`, or the credentials are refused.
            MissingEvidence: what was asked for does not exist.
            Conflict: somebody else changed it first.
            BadInput: the cluster cannot do it.
        """
        return self._asked(request, _Patience(self, self.settings.patience_s if patience_s is None else patience_s))

    def _asked(self, request: Callable[[Any], T], patience: "_Patience") -> T:
        from opensearchpy.exceptions import ConnectionError as NotReached
        from opensearchpy.exceptions import TransportError

        while True:
            try:
                return request(self._client)
            except NotReached as error:
                patience.wait(f"it cannot be reached ({' '.join(str(error.error).split())[:200]})")
            except TransportError as error:
                status = int(error.status_code)
                if status not in BUSY:
                    raise self._meaning(status, error.error, error.info) from error
                patience.wait(f"it is busy (HTTP {status})")

    def failure(self, status: int, told: Any) -> MangaAssistError:
        """The error that a part of an answer stands for, from its HTTP status and `error` object."""
        return self._meaning(status, told.get("type", "error") if isinstance(told, dict) else str(told), {"error": told})

    def _meaning(self, status: int, kind: str, info: Any) -> MangaAssistError:
        told = info.get("error", "") if isinstance(info, dict) else ""
        reason = f"{kind}: {told.get('reason', '') if isinstance(told, dict) else told}"[:300]
        if status in (401, 403):
            return Unavailable(f"{self.name}: credentials refused (HTTP {status}, {reason}). Check the URL and what its role may do.")
        if status == 404:
            return MissingEvidence(f"{self.name}: {reason}. Materialise `chunk_index`, or open the serving index again.")
        if status == 409:
            return Conflict(f"{self.name}: {reason}. Read the state again and decide anew.")
        if status >= 500:
            return Unavailable(f"{self.name}: HTTP {status}, {reason}")
        return BadInput(f"HTTP {status}, {reason}", where=self.name, remedy="Check [retrieval.opensearch] and the cluster's k-NN plugin.")

    def bulk(self, index: str, lines: Sequence[str]) -> Written:
        """Writes actions, `parallel` requests of `bulk_rows` actions at a time.

        Args:
            index: its name.
            lines: one action each, as the Bulk API reads it: metadata, the document where there is one, each closed by a newline.
                Actions must carry an external version: a request that timed out is sent again.

        Raises:
            BadInput: the cluster refuses a document for what it is; what else was sent is written.
            Unavailable: it stayed busy or away.
        """
        rows = self.settings.bulk_rows
        batches = [lines[start : start + rows] for start in range(0, len(lines), rows)]
        with ThreadPoolExecutor(self.settings.parallel) as pool:
            written = list(pool.map(lambda batch: self._send(index, batch), batches))
        return Written(sum(part.done for part in written), sum(part.superseded for part in written))

    def _post(self, index: str, body: str, patience: "_Patience") -> dict[str, Any]:
        return dict(self._asked(lambda client: client.bulk(body=body, index=index), patience))

    def _send(self, index: str, lines: Sequence[str]) -> Written:
        """One request, and further ones for what was refused for want of room. (opensearch-py's helper stops at a 503 and at a 409.)"""
        from opensearchpy.exceptions import TransportError

        patience = _Patience(self, self.settings.patience_s)
        done = superseded = 0
        while lines:
            try:
                reply = self._post(index, "".join(lines), patience)
            except BadInput as error:
                too_large = isinstance(error.__cause__, TransportError) and error.__cause__.status_code == 413
                if not too_large or len(lines) == 1:
                    raise
                halves = [self._send(index, part) for part in (lines[: len(lines) // 2], lines[len(lines) // 2 :])]
                return Written(done + sum(part.done for part in halves), superseded + sum(part.superseded for part in halves))
            refused, wrong = [], []
            for line, item in zip(lines, reply["items"], strict=True):
                ((action, outcome),) = item.items()
                status = int(outcome["status"])
                if status < 300 or (status == 404 and action == "delete"):
                    done += 1
                elif status == 409:
                    superseded += 1
                elif status in BUSY:
                    refused.append(line)
                else:
                    wrong.append((outcome["_id"], status, outcome.get("error")))
            if wrong:
                chunk_id, status, told = wrong[0]
                why = self.failure(status, told)
                raise BadInput(f"{why} ({len(wrong):,} of {len(lines):,} refused)", where=f"chunk {chunk_id}", remedy="Correct the chunk.")
            if refused:
                if len(refused) < len(lines):
                    patience = _Patience(self, self.settings.patience_s)
                patience.wait(f"it refuses {len(refused):,} of {len(lines):,} chunks for want of room (HTTP 429)")
            lines = refused
        return Written(done, superseded)


class _Patience:
    """Waits that double, a random share of each waited, until together they are longer than what was granted."""

    def __init__(self, cluster: Cluster, granted_s: float) -> None:
        self._cluster, self._granted, self._waited, self._tries = cluster, granted_s, 0.0, 0
        self._draw = Random("opensearch")

    def wait(self, problem: str) -> None:
        """Waits before another try, or raises Unavailable."""
        seconds = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**self._tries) * self._draw.uniform(0.5, 1)
        self._tries += 1
        self._waited += seconds
        if self._waited > self._granted:
            raise Unavailable(
                f"{self._cluster.name}: {problem}, after {self._tries} tries. The serving index is as it was; run it again later."
            )
        self._cluster._sleep(seconds)

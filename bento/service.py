"""`bentoml serve bento.service:MangaAssist`, `bentoml build`.

Thin: BentoML starts, configures and packages the service; `web.py` answers in front of BentoML's stack, `pipeline.py` decides.
"""

import contextlib
import datetime as dt
import functools
import importlib.metadata
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import attrs
import bentoml
import msgspec
from bentoml.exceptions import BentoMLException
from bentoml.images import Image

from bento.faults import logger
from bento.interactions import Interactions
from bento.metrics import Metrics
from bento.pipeline import Pipeline
from bento.schemas import ClassifyReply, ClassifyRequest, openapi
from bento.shelves import Shelves
from bento.web import Web
from mangaassist_assets import settings
from mangaassist_assets.lib.artifacts import Bundle, House
from mangaassist_assets.lib.drift.segments import Journal
from mangaassist_assets.lib.errors import MangaAssistError
from mangaassist_assets.lib.intents.cascade import Cascade
from mangaassist_assets.lib.retrieval.packing import Found, RetrieverLookout, pack_retriever
from mangaassist_assets.lib.retrieval.retriever import Retriever
from mangaassist_assets.lib.retrieval.served import load_retriever
from mangaassist_assets.lib.retrieval.titan import TITAN
from mangaassist_assets.lib.serving import Lookout, pack_bundle

ROOT = Path(__file__).resolve().parent.parent
PACKAGED = ROOT / "packaged"  # in a built Bento; a source tree has none
RETRIEVER = "retriever"  # in PACKAGED, a home of its own

# What a container needs and no more: nothing of the graph, nothing that trains. Of the two ONNX Runtimes it has the one that is here.
REQUIREMENTS = (
    "PyStemmer",
    "bentoml",
    "bm25s",
    "faiss-cpu",
    "httptools",
    "msgspec",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "pyarrow",
    "pydantic-settings",
    "safetensors",
    "scipy",
    "threadpoolctl",
    "tokenizers",
    "uvloop",
)

T = TypeVar("T")


def _lookout(told: settings.Settings) -> Lookout:
    named = os.environ.get(f"{settings.PREFIX}BUNDLE")
    return Lookout(
        House(told.home, told.store),
        allow_unreleased=told.service.allow_unreleased,
        pinned=Path(named).resolve() if named else None,
        packaged=PACKAGED,
    )


_now = functools.partial(dt.datetime.now, dt.UTC)


@attrs.define
class ImageWithBundle(Image):  # type: ignore[misc]
    """The image of a Bento that carries what it serves, so that it answers where there is no house."""

    def freeze(self, bento_fs: Path, *args: Any, **kwargs: Any) -> Any:
        """Called once, by `bentoml build`, after the sources are in `bento_fs`."""
        told, packaged = settings.current(), bento_fs / "src" / PACKAGED.name
        try:
            pack_bundle(_lookout(told)().champion, packaged)
            absent = pack_retriever(
                House(told.home, told.store),
                packaged / RETRIEVER,
                most_bytes=told.service.most_packed_bytes,
                with_index=not told.retrieval.opensearch.url,
            )
        except MangaAssistError as error:
            raise BentoMLException(str(error)) from None
        if absent:
            logger.warning(absent)
        self.commands = list(dict.fromkeys(self.commands))  # BentoML enters its own a second time
        return super().freeze(bento_fs, *args, **kwargs)

    def _freeze_python_requirements(self, bento_fs: Path, platform_: str | None = None) -> str:
        """Instead of all that the project depends on; BentoML's own would install uv into this environment to say the same."""
        content = "".join(f"{line}\n" for line in pins())
        folder = bento_fs / "env" / "python"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "requirements.txt").write_text(content)
        return content


def pins() -> list[str]:
    """REQUIREMENTS, and what the settings add to them, as they are installed here, `name==version`."""
    told, found = settings.current().retrieval, []
    cluster = ["opensearch-py"] if told.opensearch.url else []
    aws = ["boto3"] if told.opensearch.aws_region or told.encoder == TITAN else []
    for name in sorted([*REQUIREMENTS, *cluster, *aws], key=str.lower):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name}=={importlib.metadata.version(name)}")
    return found


class InFront(bentoml.Service[T]):  # type: ignore[misc]
    """A BentoML service whose routes are answered in front of BentoML's own stack."""

    @functools.cached_property
    def metrics(self) -> Metrics:
        """The ones of this process."""
        return Metrics()

    @functools.cached_property
    def interactions(self) -> Interactions:
        """Those of this process."""
        told = settings.current()

        def journal(folder: Path) -> Journal:
            return Journal(folder, clock=_now, settings=told.service.journal)

        return Interactions(
            told.home,
            open_journal=journal,
            clock=_now,
            metrics=self.metrics,
            write=told.service.interactions,
            feedback_days=told.service.feedback_days,
        )

    @functools.cached_property
    def pipeline(self) -> Pipeline:
        """The one of this process."""
        told = settings.current()

        def load(bundle: Bundle) -> Cascade:
            return Cascade.load(bundle, provider=told.service.provider, threads=1)

        return Pipeline(
            told.service,
            wanted=_lookout(told),
            load=load,
            metrics=self.metrics,
            interactions=self.interactions,
            canary_share=told.release.canary_share,
        )

    @functools.cached_property
    def shelves(self) -> Shelves:
        """The one of this process."""
        told = settings.current()
        encoding = replace(told.retrieval.encoding, provider=told.service.provider, threads=1)

        def load(found: Found) -> Retriever:
            return load_retriever(found.house, found, encoding, told.retrieval.opensearch)

        return Shelves(
            wanted=RetrieverLookout(House(told.home, told.store), PACKAGED / RETRIEVER),
            load=load,
            poll_s=told.service.poll_s,
            max_waiting=told.service.max_requests,
            interactions=self.interactions,
        )

    @property
    def version(self) -> str:
        return str(self.bento.tag.version) if self.bento else "dev"

    def to_asgi(self, is_main: bool = True) -> Web:
        logging.getLogger("uvicorn.access").propagate = False  # else uvicorn formats a line a request, for nobody
        return Web(self.pipeline, self.shelves, version=self.version, behind=super().to_asgi(is_main))

    @property
    def openapi_spec(self) -> dict[str, Any]:
        return openapi(settings.current().service, self.version)


@bentoml.service(
    service_class=InFront,
    image=ImageWithBundle(),
    envs=[{"name": "OMP_NUM_THREADS", "value": "1"}],  # the threads of one batch; batches are what runs in parallel
    description="What a shopper's message wants: the champion of the MangaAssist asset graph. Routes and limits are in /docs.json.",
)
class MangaAssist:
    """What a shopper's message wants, from the champion of the asset graph."""

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Once, before any worker starts: settings that cannot be are an error of the command, not of each worker."""
        try:
            settings.current()
        except MangaAssistError as error:
            raise BentoMLException(str(error)) from None

    @bentoml.on_startup
    async def start(self) -> None:
        await MangaAssist.interactions.start()
        await MangaAssist.pipeline.start()
        await MangaAssist.shelves.start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        await MangaAssist.pipeline.stop()
        await MangaAssist.shelves.stop()
        await MangaAssist.interactions.stop()

    @bentoml.api(route="/v1/classify")
    async def classify(self, texts: list[str], session_id: str | None = None, probe: bool = False) -> ClassifyReply:
        """The intent of each text. Over HTTP `web.py` answers this route; here it is for BentoML's clients and for calls in process."""
        return msgspec.json.decode(await MangaAssist.pipeline.answer(ClassifyRequest(texts, session_id, probe)), type=ClassifyReply)

"""The peer of `serve.py`: the same bundle behind a typed BentoML endpoint, written as BentoML's documentation writes one."""

import os
import uuid
from pathlib import Path

import bentoml
from pydantic import BaseModel

from mangaassist_assets.lib.artifacts import open_bundle
from mangaassist_assets.lib.intents.cascade import Cascade


class Result(BaseModel):
    intent: str
    confidence: float
    secondary_intent: str | None
    route: str
    request_id: str


class Reply(BaseModel):
    results: list[Result]


@bentoml.service
class Plain:
    def __init__(self) -> None:
        self.cascade = Cascade.load(open_bundle(Path(os.environ["MANGAASSIST_BUNDLE"])), threads=1)

    @bentoml.api(route="/v1/classify")
    def classify(self, texts: list[str]) -> Reply:
        return Reply(
            results=[
                Result(
                    intent=p.intent,
                    confidence=p.confidence,
                    secondary_intent=p.secondary_intent,
                    route=p.route,
                    request_id=uuid.uuid4().hex,
                )
                for p in self.cascade.classify(texts)
            ]
        )

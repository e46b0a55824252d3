"""Every knob, from one place: flag > environment > mangaassist.toml > default.

The file is `mangaassist.toml` in the working directory, or the one that MANGAASSIST_CONFIG names. Environment variables are
MANGAASSIST_<KEY>, with two underscores into a section: MANGAASSIST_GATES__ACCURACY=0.92. Sections are frozen dataclasses, most
of them those that `lib/` itself takes. Relative paths are read from the folder of the file they stand in.
"""

import dataclasses
import difflib
import functools
import os
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import InstanceOf, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from mangaassist_assets.lib.alerting import AlertSettings
from mangaassist_assets.lib.artifacts import digest_of
from mangaassist_assets.lib.drift.ingestion import Ingestion
from mangaassist_assets.lib.drift.limits import DriftLimits
from mangaassist_assets.lib.errors import BadInput
from mangaassist_assets.lib.intents.benchmark import Benchmarking
from mangaassist_assets.lib.intents.candidates import ENCODERS, CandidateSettings
from mangaassist_assets.lib.intents.encoder import EMBEDDED_ENCODER
from mangaassist_assets.lib.intents.hub import HubUse
from mangaassist_assets.lib.intents.selection import SelectionRules
from mangaassist_assets.lib.messages.augmentation.bedrock import BedrockSettings
from mangaassist_assets.lib.messages.augmentation.generator import AugmentationSettings
from mangaassist_assets.lib.messages.labelling import Limits, out_of_scope_label
from mangaassist_assets.lib.messages.queue import Labelling
from mangaassist_assets.lib.messages.reading import Source, load_sources, parse_sources
from mangaassist_assets.lib.metrics.cloudwatch import CloudWatchSettings
from mangaassist_assets.lib.release.gates import GateLimits
from mangaassist_assets.lib.release.rules import ReleaseRules
from mangaassist_assets.lib.retrieval.adapter_fitting import AdapterTraining
from mangaassist_assets.lib.retrieval.catalogue_queries import CatalogueQueries
from mangaassist_assets.lib.retrieval.chunking import Chunking
from mangaassist_assets.lib.retrieval.documents import CatalogSource, parse_catalog
from mangaassist_assets.lib.retrieval.encoders import EncoderSettings
from mangaassist_assets.lib.retrieval.evaluation import RetrievalLimits
from mangaassist_assets.lib.retrieval.feedback import QueryFeedback
from mangaassist_assets.lib.retrieval.mining import Mining
from mangaassist_assets.lib.retrieval.opensearch_cluster import OpenSearchSettings
from mangaassist_assets.lib.retrieval.pairs import QuerySource, parse_queries
from mangaassist_assets.lib.retrieval.rebuild import IndexSettings
from mangaassist_assets.lib.retrieval.workers import parse_workers
from mangaassist_assets.lib.serving import ServiceSettings
from mangaassist_assets.simulation.settings import SimulationSettings

PROJECT = Path(__file__).resolve().parent.parent
BUNDLED_SOURCES = PROJECT / "data" / "sources.toml"
BUNDLED_CATALOG = PROJECT / "data" / "catalog.toml"
BUNDLED_QUERIES = PROJECT / "data" / "retrieval.toml"
FILE_NAME = "mangaassist.toml"
PREFIX = "MANGAASSIST_"
T = TypeVar("T")

Candidate = Literal["rules", "linear", "student", "minilm", "distilbert", "tinybert", "bert_base", "roberta_base"]
CANDIDATES: tuple[Candidate, ...] = typing.get_args(Candidate)


@dataclass(frozen=True)
class Sources:
    """Files that people bring.

    Attributes:
        labeled_messages, catalog, retrieval_pairs: each from one table of the file, or from an array of tables.
    """

    labeled_messages: tuple[Source, ...] = ()
    catalog: tuple[CatalogSource, ...] = ()
    retrieval_pairs: tuple[QuerySource, ...] = ()


@dataclass(frozen=True)
class Training:
    """How labelled and augmented messages become training rows.

    Attributes:
        weights: of a source's rows, by its name; 1 where absent. By default the bundled sources that are not about a manga store
            count less: at full weight they cost the n-gram candidate 2 to 5 points on hand-written messages.
        augmented_weight: factor for augmented rows.
        require_review: True trains on augmented rows only after a person accepted them.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"bitext": 0.3, "clinc150": 0.5})
    augmented_weight: float = 0.5
    require_review: bool = False


@dataclass(frozen=True)
class Messages:
    """What labelled messages must keep to, how more are made of them, and how they become training rows.

    Attributes:
        generator: `lexicon` needs no model; `bedrock` asks Claude and costs money, within `bedrock.budget_usd`.
        bedrock: what to ask it.
        lexica: folder of words and grammars that both use.
    """

    limits: Limits = Limits()
    augmentation: AugmentationSettings = AugmentationSettings()
    generator: Literal["lexicon", "bedrock"] = "lexicon"
    bedrock: BedrockSettings | None = None
    lexica: Path = PROJECT / "data" / "lexica"
    training: Training = Training()


@dataclass(frozen=True)
class Intents:
    """Which classifiers are trained and compared, and how.

    Attributes:
        candidates: those that are trained and compared; the rules must be among them, they open the cascade.
        training: of every candidate; an encoder that is not named there keeps its own weights.
        hub: whether encoders are fetched from the hub: where there is CUDA to train them on, always, or never.
        rules: the file of the fast path's patterns.
        benchmark: how long and how hard candidates are driven.
        prices: price list of instances.
        instance: the one that costs are computed for.
        lift_candidate: the one that augmentation_lift trains once more, without augmented messages.
        accuracy_loss: what the cascade may lose on validation against its classifier alone.
        seed: of everything that draws at random outside training.
    """

    candidates: tuple[Candidate, ...] = CANDIDATES
    training: CandidateSettings = field(default_factory=CandidateSettings)
    hub: HubUse = "auto"
    rules: Path = PROJECT / "data" / "rules" / "intents.toml"
    benchmark: Benchmarking = Benchmarking()
    prices: Path = PROJECT / "data" / "instance_prices.toml"
    instance: str = "g4dn.xlarge"
    lift_candidate: Candidate = "linear"
    accuracy_loss: float = 0.002
    seed: int = 20


@dataclass(frozen=True)
class Retrieval:
    """How the store's documents become an index.

    Attributes:
        chunking: how documents are cut.
        encoder: name of the embedded encoder, a folder, a hub name, or `titan` for Bedrock.
        encoding: how it is loaded and run.
        shards: parts that chunks are embedded in, each by itself.
        catalogue_queries: what the catalogue itself gives to learn from.
        feedback: what shoppers give to learn from.
        mining: how wrong answers are found.
        adapter: how adapters are trained and chosen.
        index: how the index is built and searched.
        opensearch: a cluster that is searched instead of the local index, where it has a `url`.
        limits: what a new adapter must keep to.
        seed: of splits and of intervals.
    """

    chunking: Chunking = Chunking()
    encoder: str = EMBEDDED_ENCODER
    encoding: EncoderSettings = EncoderSettings()
    shards: int = 2
    catalogue_queries: CatalogueQueries = CatalogueQueries()
    feedback: QueryFeedback = QueryFeedback()
    mining: Mining = Mining()
    adapter: AdapterTraining = AdapterTraining()
    index: IndexSettings = IndexSettings()
    opensearch: OpenSearchSettings = OpenSearchSettings()
    limits: RetrievalLimits = RetrievalLimits()
    seed: int = 20


class Settings(BaseSettings):
    """What a process was told; made by `load`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    home: Path = Path(".mangaassist")
    store: str | None = None
    workers: str = "local"  # who builds an index: local, local:N, ray, ray://host:10001; see lib/retrieval/workers.py
    sources: InstanceOf[Sources] = Sources()
    messages: Messages = Messages()
    intents: Intents = Intents()
    retrieval: Retrieval = Retrieval()
    selection: SelectionRules = SelectionRules()
    gates: GateLimits = GateLimits()
    release: ReleaseRules = ReleaseRules()
    ingestion: Ingestion = Ingestion()
    drift: DriftLimits = DriftLimits()
    calendar: Path = PROJECT / "data" / "calendar.toml"  # of seasons, when shares shift without anything being wrong
    labelling: Labelling = Labelling()
    alerts: AlertSettings = AlertSettings()
    cloudwatch: CloudWatchSettings = CloudWatchSettings()
    simulation: SimulationSettings = SimulationSettings()
    service: ServiceSettings = ServiceSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before the file; `load` hands the file over as initial values."""
        return Environment(settings_cls), init_settings


class Environment(PydanticBaseSettingsSource):
    """MANGAASSIST_<SECTION>__<KEY>; a value is what it would be in the file, and plain text needs no quotes."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """The variables as nested tables.

        Raises:
            BadInput: a variable names a key that its section does not have.
        """
        values: dict[str, Any] = {}
        for variable in sorted(os.environ):
            keys = variable.removeprefix(PREFIX).lower().split("__")
            if variable.startswith(PREFIX) and keys[0] in self.settings_cls.model_fields:
                value: Any = _value(os.environ[variable], self.settings_cls, keys)
                for key in reversed(keys[1:]):
                    value = {key: value}
                _check_keys({keys[0]: value}, self.settings_cls, "", f"environment variable {variable}")
                _merge(values, {keys[0]: value})
        return values


def _value(written: str, into: Any, keys: Sequence[str]) -> Any:
    """A variable's text as the file would have it; what is text anyway stays text."""
    for key in keys:
        into = _fields(into).get(key) if into is Settings or dataclasses.is_dataclass(into) else None
    if into in (str, Path, str | None):
        return written
    try:
        return tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        return written


def _merge(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


@functools.cache
def current() -> Settings:
    """The settings of this process, read once."""
    return load(config_file())


def config_file() -> Path | None:
    """The file in use: MANGAASSIST_CONFIG, else `mangaassist.toml` of the working directory where there is one.

    Raises:
        BadInput: MANGAASSIST_CONFIG names no file.
    """
    named = os.environ.get(f"{PREFIX}CONFIG")
    path = Path(named or FILE_NAME)
    if path.is_file():
        return path.resolve()
    if named:
        raise BadInput("there is no such file", where=named, remedy=f"Correct --config or {PREFIX}CONFIG.")
    return None


def load(path: Path | None) -> Settings:
    """Reads settings from the environment and from `path`.

    Raises:
        BadInput: not TOML, an unknown key, a value of a wrong type or out of bounds; file and key are named.
    """
    base = path.parent if path else Path.cwd()
    values = _read(path) if path else {}
    named = values.pop("sources", {})
    messages, catalog = named.get("labeled_messages"), named.get("catalog")
    own: tuple[Source, ...] = ()
    if messages is not None:
        values.setdefault("simulation", {}).setdefault("days", 0)  # a rehearsal is for the sample; one's own loop runs on its own traffic
        own = parse_sources(messages, folder=base, where=str(path))
    elif BUNDLED_SOURCES.exists():  # a built Bento has the settings, but neither needs nor carries the sample
        own = load_sources(BUNDLED_SOURCES)
    documents = _sources_of(named, "catalog", parse_catalog, BUNDLED_CATALOG, base, path)
    # judged queries name documents: those of the sample belong to the sample's catalogue alone
    bundled_queries = BUNDLED_QUERIES if catalog is None else None
    queries = _sources_of(named, "retrieval_pairs", parse_queries, bundled_queries, base, path)
    try:
        settings = Settings(**values, sources=Sources(own, documents, queries))
    except ValidationError as error:
        raise _explained(error, path) from error
    return _completed(settings, base)


def _sources_of(
    named: Mapping[str, Any], table: str, parse: Callable[..., tuple[T, ...]], bundled: Path | None, base: Path, path: Path | None
) -> tuple[T, ...]:
    """The sources of one table: those of the file, else the bundled ones where they are here."""
    if table in named:
        return parse(named[table], folder=base, where=str(path))
    if bundled is None or not bundled.exists():
        return ()
    return parse(tomllib.loads(bundled.read_text("utf-8"))["sources"][table], folder=bundled.parent, where=str(bundled))


def _completed(settings: Settings, base: Path) -> Settings:
    """With paths made absolute, and what follows from other settings filled in."""
    intents = settings.intents
    if "rules" not in intents.candidates or len(intents.candidates) < 2:
        raise BadInput("names no rules, or nothing else", where="intents.candidates", remedy='Name "rules" and at least one more.')
    if intents.lift_candidate not in intents.candidates:
        names = ", ".join(name for name in intents.candidates if name != "rules")
        raise BadInput("not among the candidates", where="intents.lift_candidate", remedy=f"Name one of {names}.")
    training = dataclasses.replace(
        intents.training,
        encoders=ENCODERS | dict(intents.training.encoders),
        out_of_scope_label=out_of_scope_label(settings.sources.labeled_messages),
    )
    intents = dataclasses.replace(intents, training=training, rules=base / intents.rules, prices=base / intents.prices)
    if settings.messages.generator == "bedrock" and settings.messages.bedrock is None:
        raise BadInput("is bedrock, without its settings", where="messages.generator", remedy="Add [messages.bedrock] with budget_usd.")
    messages = dataclasses.replace(settings.messages, lexica=base / settings.messages.lexica)
    parse_workers(settings.workers)
    resolved = {"home": (base / settings.home).resolve(), "calendar": base / settings.calendar}
    return settings.model_copy(update=resolved | {"messages": messages, "intents": intents})


def version(logic: str, *sections: Any) -> str:
    """A code version that changes with the logic, which its author counts, and with the settings that it depends on."""
    plain = [dataclasses.asdict(s) if dataclasses.is_dataclass(s) and not isinstance(s, type) else s for s in sections]
    return f"{logic}.{digest_of(_json(plain))[:10]}"


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(v) for v in value]
    return str(value) if isinstance(value, Path) else value


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"not readable as TOML ({error})", where=str(path), remedy="Correct the file.") from error
    _check_keys(values, Settings, "", path)
    return values


def _check_keys(values: Mapping[str, Any], into: Any, where: str, origin: Path | str) -> None:
    """Refuses keys that `into`, a dataclass or the settings, does not have, with the one that was probably meant."""
    known = _fields(into)
    for key, value in values.items():
        name = f"{where}.{key}" if where else key
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise BadInput(
                f"unknown key `{name}`",
                where=str(origin),
                remedy=f"Did you mean `{near[0]}`?" if near else f"Known here: {', '.join(known)}.",
            )
        inner = _dataclass_in(known[key]) if not name.startswith("sources.") else None  # their readers check them
        if inner is not None:
            for table in value if isinstance(value, list) else [value]:
                if isinstance(table, Mapping):
                    _check_keys(table, inner, name, origin)


def _fields(into: Any) -> dict[str, Any]:
    if isinstance(into, type) and issubclass(into, BaseSettings):
        return {name: info.annotation for name, info in into.model_fields.items()}
    return typing.get_type_hints(into)


def _dataclass_in(annotation: Any) -> Any:
    """The dataclass in `X`, `X | None`, `tuple[X, ...]` or a mapping to X; None where there is none."""
    if dataclasses.is_dataclass(annotation):
        return annotation
    if typing.get_origin(annotation) in (types.UnionType, typing.Union, tuple, list, Sequence):
        return next(filter(None, map(_dataclass_in, typing.get_args(annotation))), None)
    return None


def _explained(error: ValidationError, path: Path | None) -> BadInput:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if not (isinstance(part, int) and len(first["loc"]) == 1)]
    name = ".".join(place)
    variable = PREFIX + "__".join(place).upper()
    given = repr(first.get("input"))
    where = f"environment variable {variable}" if variable in os.environ else f"{path or 'settings'}: `{name}`"
    return BadInput(f"{first['msg'].lower()}, got {given[:60]}", where=where, remedy="Correct the value.")

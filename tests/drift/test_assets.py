"""Days of traffic through the graph: segments as the service writes them, tables, drift, and the sensor that asks for the runs."""

import datetime as dt
import hashlib
import json
import time

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from mangaassist_assets import outside, settings
from mangaassist_assets.defs.drift import daily, sealing, signals, space
from mangaassist_assets.defs.retrieval import feedback
from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.drift.ingestion import DAYS_READ, chosen, gather, weeks_over
from mangaassist_assets.lib.drift.interactions import Answer, Feedback, Retrieve, line_of
from mangaassist_assets.lib.drift.segments import Journal
from mangaassist_assets.lib.messages.production_accuracy import PRODUCTION_ACCURACY
from mangaassist_assets.lib.release.log import ROLLOUT
from mangaassist_assets.partitions import DAYS, WEEKS
from mangaassist_assets.resources import HouseResource

FIRST = dt.date(2026, 10, 5)  # a Monday
SPACE, DAILY = [space.drift_space], [daily.interaction_segments, daily.day_of_traffic]
SIGNALS = [signals.traffic, signals.intent_share, signals.confidence, signals.embedding_drift, signals.drift_triage]
INTENTS = ("faq", "promotion", "order_tracking")


class LetterEncoder:
    """Stands in for the embedded encoder: equal texts get equal unit vectors of 16 dimensions."""

    class space:
        dimension = 16

    def encode(self, texts, *, queries=False):
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in texts]
        found = np.array([np.random.default_rng(seed).normal(size=16) for seed in seeds], np.float32).reshape(-1, 16)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A home with labelled messages, no release and no labels of production, and a cheap encoder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANGAASSIST_HOME", str(tmp_path / "home"))
    settings.current.cache_clear()
    house = House(tmp_path / "home")
    rows = [
        {"text": f"message {i} about {INTENTS[i % 3]}", "intent": INTENTS[i % 3], "split": "golden" if i % 10 == 0 else "train"}
        for i in range(300)
    ]
    house.write_table("messages/labeled_messages", pa.Table.from_pylist(rows))
    house.write_table("messages/production_accuracy", PRODUCTION_ACCURACY.empty_table())
    house.write_table("release/rollout", ROLLOUT.empty_table())
    bundle = house.write_bundle("text_encoder", {}, {"source": "letters"})
    monkeypatch.setattr(space, "write_encoder", lambda *_: bundle)
    monkeypatch.setattr(space, "open_encoder", lambda *_: LetterEncoder())
    yield house
    settings.current.cache_clear()


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def materialize(house, instance):
    def materialize(assets, *, raise_on_error=True, **options):
        resources = {"house": HouseResource(home=str(house.home))}
        return dg.materialize(assets, instance=instance, resources=resources, raise_on_error=raise_on_error, **options)

    return materialize


def serve(house, day, answers=40, *, start=0, probes=0):
    """Writes and seals a day's answers, and a thumb up for every tenth, as a worker of the service does."""
    moment = dt.datetime.combine(day, dt.time(12), dt.UTC)
    journal = Journal(house.home / "interactions", clock=lambda: moment)
    for i in range(start, start + answers):
        intent, request = INTENTS[i % 3], f"{day:%Y%m%d}-{'ab' * 4}-{i:x}"
        answer = Answer(
            request_id=request, occurred_at=moment + dt.timedelta(seconds=i), text=f"message {i % 300} about {intent}", language="en",
            intent=intent, confidence=0.9, route="classifier", model_digest="a" * 64, arm="champion", latency_ms=5.0 + i % 7,
            session=f"{i % 8:016x}", flags=["probe"] if i - start < probes else [],
        )  # fmt: skip
        assert journal.append(line_of(answer))
        if i % 10 == 0:
            assert journal.append(line_of(Feedback(request_id=request, at=moment + dt.timedelta(minutes=5), thumbs_up=True)))
    journal.close()


def days(n, first=FIRST):
    return [first + dt.timedelta(i) for i in range(n)]


def span(first, last):
    return {"dagster/asset_partition_range_start": first.isoformat(), "dagster/asset_partition_range_end": last.isoformat()}


def version(instance, key, partition=None):
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey(key), asset_partitions=[partition] if partition else None), 1
    )
    return records.records[0].asset_materialization.tags["dagster/data_version"]


# ── the tables ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_any_traffic_every_table_is_there_and_empty(house, materialize):
    assert materialize([*SPACE, *SIGNALS]).success
    for name, part in (
        ("traffic", "data"), ("traffic", "day"), ("intent_share", "data"), ("confidence", "data"), ("embedding_drift", "data"),
        ("embedding_drift", "moments"), ("drift_triage", "data"),
    ):  # fmt: skip
        table = house.read_table(f"drift/{name}", part=part)
        assert table.num_rows == 0 and table.num_columns > 5, (name, part)


def test_a_range_of_days_in_one_run_and_what_follows_from_it(house, instance, materialize):
    month = days(21)
    for day in month:
        serve(house, day)
    outside.look(settings.current(), instance)
    assert materialize(SPACE).success
    result = materialize(DAILY, tags=span(month[0], month[-1]))
    assert result.success
    assert {check.passed for check in result.get_asset_check_evaluations()} == {True}
    assert materialize(SIGNALS).success
    assert house.read_table("drift/traffic", part="day")["requests"].to_pylist() == [40] * 21
    assert house.read_table("drift/embedding_drift", part="moments")["n"].to_pylist() == [40] * 21
    assert set(house.read_table("drift/intent_share")["week"].to_pylist()) == {month[0], month[7], month[14]}
    assert house.read_table("drift/confidence").num_rows == 21
    verdicts = [row for row in house.read_table("drift/drift_triage").to_pylist() if row["signal"] == "verdict"]
    assert [row["cause"] for row in verdicts] == ["none"] * 3
    first = house.read_table("drift/interactions", partition="2026-10-05")
    assert first.num_rows == 40 and first["thumbs_up"].to_pylist().count(True) == 4


def test_what_shoppers_open_becomes_queries_to_learn_from(house, instance, materialize):
    house.write_table("retrieval/catalog_chunks", pa.table({"document_id": ["berserk", "claymore"]}))
    assert materialize([*SPACE, feedback.feedback_queries]).success
    assert house.read_table(feedback.TABLE).num_rows == 0
    for day in days(2):
        moment = dt.datetime.combine(day, dt.time(12), dt.UTC)
        journal = Journal(house.home / "interactions", clock=lambda moment=moment: moment)
        request = f"{day:%Y%m%d}-{'cd' * 4}-1"
        asked = Retrieve(
            request_id=request, occurred_at=moment, query="dark fantasy", language="en", retrieved=["berserk", "claymore"],
            index_digest="b" * 64, latency_ms=3.0,
        )  # fmt: skip
        assert journal.append(line_of(asked))
        assert journal.append(line_of(Feedback(request_id=request, at=moment + dt.timedelta(minutes=1), clicked=["claymore"])))
        journal.close()
    outside.look(settings.current(), instance)
    assert materialize([*SPACE, *DAILY], tags=span(*days(2))).success
    assert materialize([feedback.feedback_queries]).success
    [row] = house.read_table(feedback.TABLE).to_pylist()
    assert (row["query"], row["relevant"], row["not_relevant"], row["split"]) == ("dark fantasy", ["claymore"], ["berserk"], "train")


def test_a_new_day_is_added_to_those_that_are_kept(house, instance, materialize, monkeypatch):
    materialize(SPACE)
    for day in days(3):
        serve(house, day)
    outside.look(settings.current(), instance)
    materialize(DAILY, tags=span(*days(3)[::2]))
    materialize([signals.traffic])
    before = version(instance, "traffic")
    read, original = [], House.read_table
    monkeypatch.setattr(House, "read_table", lambda *a, **k: (read.append((a[1], k.get("partition"))), original(*a, **k))[1])
    materialize([signals.traffic])
    assert version(instance, "traffic") == before
    assert [name for name in read if name[1]] == []
    serve(house, days(4)[3])
    outside.look(settings.current(), instance)
    materialize(DAILY, partition_key="2026-10-08")
    materialize([signals.traffic])
    assert {partition for name, partition in read if name == "drift/interaction_counts"} == {"2026-10-08"}
    assert house.read_table("drift/traffic", part="day").num_rows == 4
    assert version(instance, "traffic") != before


def test_a_day_that_is_read_again_takes_its_own_place_and_equal_segments_an_equal_version(house, instance, materialize):
    materialize(SPACE)
    serve(house, FIRST, 20)
    outside.look(settings.current(), instance)
    materialize(DAILY, partition_key="2026-10-05")
    first = version(instance, "interaction_counts", "2026-10-05")
    materialize(DAILY, partition_key="2026-10-05")
    assert version(instance, "interaction_counts", "2026-10-05") == first
    serve(house, FIRST, 20, start=20)
    materialize(DAILY, partition_key="2026-10-05")
    materialize([signals.traffic])
    assert version(instance, "interaction_counts", "2026-10-05") != first
    assert house.read_table("drift/traffic", part="day")["requests"].to_pylist() == [40]


def test_golden_probes_are_judged_and_counted_apart(house, instance, materialize):
    materialize(SPACE)
    serve(house, FIRST, 30, probes=11)  # messages 0 and 10 are golden
    outside.look(settings.current(), instance)
    materialize(DAILY, partition_key="2026-10-05")
    day = house.read_table("drift/interaction_counts", partition="2026-10-05", part="day").to_pylist()[0]
    assert (day["requests"], day["probes"], day["probes_right"]) == (19, 2, 2)


def test_the_space_stays_while_encoder_and_settings_do(house, instance, materialize):
    materialize(SPACE)
    first = version(instance, "drift_space")
    messages = house.read_table("messages/labeled_messages")
    house.write_table("messages/labeled_messages", messages.slice(0, 150))
    materialize(SPACE)
    assert version(instance, "drift_space") == first
    assert house.read_table("drift/drift_space", part="probes").num_rows == 15


def test_a_day_that_breaks_a_claim_stops_its_run(house, instance, materialize):
    materialize(SPACE)
    serve(house, FIRST, 5)
    (house.home / "interactions" / "2026-10-05" / "z-1.jsonl").write_bytes(b"{torn\n" * 20)
    outside.look(settings.current(), instance)
    result = materialize(DAILY, partition_key="2026-10-05", raise_on_error=False)
    assert not result.success
    broken = {check.check_name: check.description for check in result.get_asset_check_evaluations() if not check.passed}
    assert list(broken) == ["quarantined_lines_are_few"]
    assert house.read_table("drift/interactions", partition="2026-10-05", part="quarantined").num_rows == 20


# ── gathering ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_days_that_are_no_longer_there_leave_the_gathered_table(tmp_path):
    house, schema = House(tmp_path), pa.schema([("day", pa.date32()), ("n", pa.int64())])
    for day in days(3):
        house.write_table("drift/source", pa.table([[day], [1]], schema=schema), partition=day.isoformat())
    everything = {day.isoformat(): "1" for day in days(3)}
    assert gather(house, "drift/source", "drift/all", schema, everything).num_rows == 3
    kept = dict(list(everything.items())[1:])
    assert gather(house, "drift/source", "drift/all", schema, kept)["day"].to_pylist() == days(3)[1:]
    assert json.loads(house.read_table("drift/all").schema.metadata[DAYS_READ]) == kept


def test_the_draw_of_messages_is_the_same_each_time_and_another_each_day():
    texts = [f"message {i}" for i in range(500)]
    monday, tuesday = chosen(texts, 50, salt="2026-10-05"), chosen(texts, 50, salt="2026-10-06")
    assert monday == chosen(texts[::-1], 50, salt="2026-10-05")
    assert len(set(monday)) == 50 and len(set(monday) & set(tuesday)) < 20


def test_a_week_is_over_when_there_is_traffic_of_a_later_one():
    assert weeks_over(["2026-10-05", "2026-10-11"]) == []
    assert weeks_over(["2026-10-07", "2026-10-12"]) == ["2026-10-05"]


# ── the sensor ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Daemon:
    """Ticks the sensor and does what Dagster's daemon does with its answer, but for running the runs."""

    def __init__(self, instance):
        self.instance, self.cursor, self.keys = instance, None, set()

    def tick(self):
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        answer = sealing.segments_sealed(context)
        if isinstance(answer, dg.SkipReason):
            return answer.skip_message
        for request in answer.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        for event in answer.asset_events:
            self.instance.report_runless_asset_event(event)
        self.cursor = answer.cursor
        return [r for r in answer.run_requests or [] if r.run_key not in self.keys and not self.keys.add(r.run_key)] or answer.skip_reason


@pytest.fixture
def wait(house, monkeypatch):
    """Sets the least seconds between two readings of a day."""

    def wait(seconds):
        monkeypatch.setenv("MANGAASSIST_INGESTION__EVERY_S", str(seconds))
        settings.current.cache_clear()

    return wait


@pytest.fixture
def daemon(instance, wait):
    wait(0)
    return Daemon(instance)


def run(materialize, request):
    return materialize(DAILY, tags=request.tags, raise_on_error=False)


def test_sealed_days_are_asked_for_in_one_run_and_only_once(house, instance, materialize, daemon):
    assert "mangaassist run" in daemon.tick()
    materialize(SPACE)
    for day in days(9):
        serve(house, day, 5)
    (request,) = daemon.tick()
    assert request.tags | span(FIRST, days(9)[-1]) == request.tags
    assert "nothing to read" in str(daemon.tick()), "its run is under way, or about to be"
    assert run(materialize, request).success
    assert "nothing to read of 9 days" in str(daemon.tick())
    assert instance.get_dynamic_partitions(DAYS.name) == [day.isoformat() for day in days(9)]
    assert instance.get_dynamic_partitions(WEEKS.name) == ["2026-10-05"], "its days are read, and the next week has begun"


def test_a_day_that_goes_on_is_read_again_and_the_others_are_not(house, instance, materialize, daemon):
    materialize(SPACE)
    for day in days(3):
        serve(house, day, 5)
    run(materialize, daemon.tick()[0])
    serve(house, days(3)[1], 5, start=5)
    (request,) = daemon.tick()
    assert request.tags["dagster/partition"] == "2026-10-06"
    assert run(materialize, request).success
    assert house.read_table("drift/interactions", partition="2026-10-06").num_rows == 10


def test_a_day_is_read_at_most_every_few_minutes(house, materialize, daemon, wait):
    materialize(SPACE)
    serve(house, FIRST, 5)
    run(materialize, daemon.tick()[0])
    daemon.tick()
    serve(house, FIRST, 5, start=5)
    wait(300)
    assert "nothing to read" in str(daemon.tick())
    wait(0)
    assert len(daemon.tick()) == 1


def test_a_run_that_fails_is_asked_for_again_and_not_for_ever(house, instance, materialize, daemon, monkeypatch):
    materialize(SPACE)
    serve(house, FIRST, 5)
    monkeypatch.setattr(daily, "read_day", lambda *_: 1 / 0)
    keys = []
    for _ in range(outside.MOST_ATTEMPTS):
        (request,) = daemon.tick()
        keys.append(request.run_key)
        assert not run(materialize, request).success
    assert len(set(keys)) == outside.MOST_ATTEMPTS
    assert "could not be read in 3 runs" in str(daemon.tick())
    serve(house, FIRST, 5, start=5)
    assert len(daemon.tick()) == 1, "new content is a new chance"


def test_days_that_mangaassist_run_has_read_are_not_read_again(house, instance, materialize, daemon):
    materialize(SPACE)
    serve(house, FIRST, 5)
    outside.look(settings.current(), instance)
    materialize(DAILY, partition_key="2026-10-05")
    assert "nothing to read" in str(daemon.tick())
    daemon.cursor = None
    serve(house, FIRST, 5, start=5)
    outside.look(settings.current(), instance)
    assert len(daemon.tick()) == 1, "it was seen, but not read since"


def test_a_tick_over_ten_thousand_segments_is_quick(house, instance, materialize, daemon):
    materialize(SPACE)
    for day in days(250):
        folder = house.home / "interactions" / day.isoformat()
        folder.mkdir(parents=True)
        for i in range(40):
            (folder / f"worker-{i:06d}.jsonl").touch()
    daemon.tick()
    fastest = 9.9
    for _ in range(3):
        began = time.perf_counter()
        daemon.tick()
        fastest = min(fastest, time.perf_counter() - began)
    assert fastest < 0.2

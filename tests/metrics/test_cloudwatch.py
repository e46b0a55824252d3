"""Each figure reaches CloudWatch once, on its own day, within CloudWatch's limits; what cannot be sent is counted by why."""

import datetime as dt
import re
from pathlib import Path

import boto3
import dagster as dg
import pyarrow as pa
import pytest
import yaml
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from moto import mock_aws
from prometheus_client import CollectorRegistry

from bento.metrics import Metrics
from mangaassist_assets.defs.metrics import cloudwatch as asset
from mangaassist_assets.lib.errors import BadInput, Unavailable
from mangaassist_assets.lib.metrics.cloudwatch import MOST_BYTES, SENT, CloudWatchSettings, connect, send
from mangaassist_assets.reporting import CLOCK_TAG
from mangaassist_assets.resources import HouseResource

NOW = dt.datetime(2026, 11, 24, 0, 15, tzinfo=dt.UTC)
YESTERDAY = dt.datetime(2026, 11, 23, 23, 59, tzinfo=dt.UTC)
SETTINGS = CloudWatchSettings("MangaAssist", "us-east-1", attempts=3)
DEPLOY = Path(__file__).parents[2] / "deploy" / "cloudwatch"
TOOK_IT = (200, b"{}")


def figure(metric="mean_confidence", value=0.84, at=YESTERDAY, unit="ratio", **dimensions):
    return {"metric": metric, "unit": unit, "intent": None, "cause": None, "stage": None, "at": at, "value": value} | dimensions


def table(*figures):
    schema = pa.schema(
        [*((name, pa.string()) for name in ("metric", "unit", "intent", "cause", "stage")), ("at", SENT.field("at").type), ("value", "f8")]
    )
    return pa.Table.from_pylist(list(figures), schema)


class Memory:
    """What was sent, as the house keeps it."""

    def __init__(self):
        self.sent = SENT.empty_table()

    def remember(self, sent):
        self.sent = sent

    def send(self, *figures, now=NOW, **more):
        return send(table(*figures), self.sent, SETTINGS, now=now, remember=self.remember, **more)


class Wire:
    """Answers calls in CloudWatch's place, below botocore's retries; the last answer goes on."""

    def __init__(self, client, *answers):
        self.answers, self.bodies = list(answers), []
        client.meta.events.register("before-send.cloudwatch.PutMetricData", self.answer)

    def answer(self, request, **_):
        self.bodies.append(bytes(request.body))
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        response = AWSResponse(request.url, status, {}, None)
        response._content = body
        return response


@pytest.fixture
def memory():
    return Memory()


@pytest.fixture
def aws():
    with mock_aws():
        yield boto3.client("cloudwatch", region_name="us-east-1")


@pytest.fixture
def plain(monkeypatch):
    """A client whose bodies are not compressed, and which waits for nobody."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    config = Config(disable_request_compression=True, retries={"total_max_attempts": 1})
    client = boto3.client("cloudwatch", region_name="us-east-1", config=config)
    yield client
    client.close()


def seen(aws, metric, **dimensions):
    """(time, average, count) of each day that CloudWatch has of a metric."""
    found = aws.get_metric_statistics(
        Namespace="MangaAssist",
        MetricName=metric,
        Dimensions=[{"Name": name, "Value": value} for name, value in dimensions.items()],
        StartTime=NOW - dt.timedelta(days=20),
        EndTime=NOW + dt.timedelta(days=2),
        Period=86400,
        Statistics=["Average", "SampleCount"],
    )
    return sorted((point["Timestamp"], point["Average"], point["SampleCount"]) for point in found["Datapoints"])


def test_a_figure_is_sent_once_with_its_own_time_unit_and_dimensions(aws, memory):
    figures = [
        figure(),
        figure("latency_ms_p99", 21.5, unit="ms"),
        figure("intent_share", 0.25, intent="faq"),
        figure("intent_share", 0.75, intent="chitchat"),
    ]
    assert memory.send(*figures) == {"sent": 4}
    assert memory.send(*figures) == {"sent": 0, "sent_before": 4}
    assert seen(aws, "mean_confidence") == [(YESTERDAY, 0.84, 1)]
    assert seen(aws, "intent_share", intent="faq") == [(YESTERDAY, 0.25, 1)]
    assert memory.sent.schema == SENT and set(memory.sent["metric"].to_pylist()) == {"mean_confidence", "latency_ms_p99", "intent_share"}
    units = aws.get_metric_data(
        MetricDataQueries=[
            {
                "Id": "a",
                "MetricStat": {
                    "Metric": {"Namespace": "MangaAssist", "MetricName": "latency_ms_p99"},
                    "Period": 86400,
                    "Stat": "Average",
                    "Unit": "Milliseconds",
                },
            }
        ],
        StartTime=NOW - dt.timedelta(days=2),
        EndTime=NOW,
    )
    assert units["MetricDataResults"][0]["Values"] == [21.5]


@pytest.mark.parametrize(
    ("why", "changed"),
    [
        ("not_measured", {"value": None}),
        ("unfit", {"value": float("inf")}),
        ("unfit", {"value": float("nan")}),
        ("unfit", {"value": -(2.0**361)}),
        ("unfit", {"intent": "返品"}),
        ("unfit", {"intent": " "}),
        ("unfit", {"intent": "a\x07"}),
        ("unfit", {"intent": "a" * 1025}),
        ("not_over", {"at": NOW + dt.timedelta(minutes=1)}),
        ("too_old", {"at": NOW - dt.timedelta(days=14)}),
    ],
)
def test_what_cloudwatch_would_refuse_is_counted_and_no_call_is_made(memory, why, changed):
    assert memory.send(figure(**changed), client=None) == {why: 1, "sent": 0}
    assert memory.sent.num_rows == 0


def test_a_day_that_was_read_again_stays_as_it_was_sent(aws, memory):
    memory.send(figure())
    assert memory.send(figure(value=0.9)) == {"sent": 0, "revised": 1}
    assert seen(aws, "mean_confidence") == [(YESTERDAY, 0.84, 1)]


def test_a_figure_without_a_time_is_of_now_and_is_sent_whenever_it_changes(aws, memory):
    later = NOW + dt.timedelta(days=1)
    values = [(0.8, NOW, 1), (0.8, later, 0), (0.7, later, 1), (0.8, later + dt.timedelta(hours=1), 1)]
    for value, now, sent in values:
        assert memory.send(figure("production_accuracy", value, at=None), now=now)["sent"] == sent
    assert memory.sent.num_rows == 1
    (_, first, one), (_, average, two) = seen(aws, "production_accuracy")
    assert (first, one, two) == (0.8, 1, 2) and average == pytest.approx(0.75)


def test_what_is_too_old_to_be_sent_again_is_forgotten(aws, memory):
    memory.send(figure(), figure("production_accuracy", at=None))
    memory.send(figure(at=YESTERDAY + dt.timedelta(days=15)), now=NOW + dt.timedelta(days=15))
    assert sorted(memory.sent["metric"].to_pylist()) == ["mean_confidence", "production_accuracy"]
    assert memory.sent.num_rows == 2


def test_another_namespace_or_region_is_told_everything(aws, memory):
    memory.send(figure())
    for settings in (CloudWatchSettings("Other", "us-east-1"), CloudWatchSettings("MangaAssist", "eu-west-1")):
        assert send(table(figure()), memory.sent, settings, now=NOW, remember=memory.remember)["sent"] == 1


@pytest.mark.parametrize(("intent", "calls"), [("faq", 3), ("x" * 1000, 3), ('"' * 1000, 6)])
def test_no_call_holds_more_than_cloudwatch_takes(memory, plain, intent, calls):
    wire = Wire(plain, TOOK_IT)
    minutes = [YESTERDAY - dt.timedelta(minutes=n) for n in range(2500)]
    assert memory.send(*(figure("intent_share", 1 / 3, at, intent=intent) for at in minutes), client=plain) == {"sent": 2500}
    assert all(len(body) <= MOST_BYTES and body.count(b"MetricName") <= 1000 for body in wire.bodies)
    assert sum(body.count(b"MetricName") for body in wire.bodies) == 2500
    assert len(wire.bodies) >= calls
    assert memory.sent.num_rows == 2500


def test_calls_that_were_taken_are_remembered_when_a_later_one_fails(memory, plain):
    figures = [figure(at=YESTERDAY - dt.timedelta(minutes=n)) for n in range(1500)]
    Wire(plain, TOOK_IT, (400, b'{"__type": "AccessDeniedException", "message": "no cloudwatch:PutMetricData"}'))
    with pytest.raises(Unavailable, match=r"^CloudWatch, MangaAssist: AccessDeniedException\. no cloudwatch:PutMetricData$"):
        memory.send(*figures, client=plain)
    assert memory.sent.num_rows == 1000
    with mock_aws():
        assert memory.send(*figures) == {"sent_before": 1000, "sent": 500}


def test_a_busy_cloudwatch_is_asked_again_and_given_up_in_the_end(memory, plain):
    for answers, attempts, sent in (([(503, b""), (503, b""), TOOK_IT], 3, 1), ([(503, b"")], 3, 0)):
        client = connect(SETTINGS)
        wire = Wire(client, *answers)
        if sent:
            assert memory.send(figure(), client=client) == {"sent": 1}
        else:
            with pytest.raises(Unavailable, match="503"):
                memory.send(figure("requests"), client=client)
        assert len(wire.bodies) == attempts
        client.close()


def test_without_credentials_or_region_one_line_says_so(memory, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"CONFIG_FILE": "/none", "SHARED_CREDENTIALS_FILE": "/none", "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(Unavailable, match=r"^CloudWatch, MangaAssist: Unable to locate credentials$"):
        memory.send(figure())
    with pytest.raises(Unavailable, match=r"^CloudWatch: You must specify a region\.$"):
        send(table(figure()), memory.sent, CloudWatchSettings("MangaAssist"), now=NOW, remember=memory.remember)


@pytest.mark.parametrize(
    "wrong", [{"namespace": "AWS/EC2"}, {"namespace": ":a"}, {"namespace": "漫画"}, {"namespace": " "}, {"attempts": 0}, {"timeout_s": 0}]
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(BadInput, match=r"^cloudwatch"):
        CloudWatchSettings(**wrong)


# ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_day_week_and_month_is_stamped_with_its_last_minute(results):
    rows = results["main.monitoring"].to_pylist()

    def of(metric, **dimensions):
        found = [row for row in rows if row["metric"] == metric and all(row[name] == value for name, value in dimensions.items())]
        return [(row["at"] and row["at"].strftime("%m-%d %H:%M"), row["value"]) for row in found]

    assert of("requests") == [("11-19 23:59", 50), ("11-20 23:59", 5)]
    assert of("latency_ms_p99") == [("11-19 23:59", 20), ("11-20 23:59", None)]
    assert of("intent_share", intent="faq") == [("11-22 23:59", 0.82)]
    assert of("intent_shifts_alerting") == [("11-22 23:59", 1)]
    assert of("embedding_kl_nats") == [("11-30 23:59", 0.31)]
    assert of("drift_verdict", cause="data") == of("retrain_due") == [("11-22 23:59", 1)]
    assert of("drift_verdict", cause="model") == [("11-22 23:59", 0)]
    assert of("gates_failed", stage="offline") == [("11-20 12:00", 2)]
    assert of("gates_inconclusive", stage="canary") == [("11-20 12:00", 0)]
    assert of("production_accuracy") == [(None, 0.91)]


# ── the asset ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def materialise(house, run_all):
    run_all(house)

    def materialise(**tags):
        with dg.DagsterInstance.ephemeral() as instance:
            resources = {"house": HouseResource(home=str(house.home))}
            result = dg.materialize([asset.cloudwatch_metrics], instance=instance, resources=resources, tags=tags)
        (event,) = result.get_asset_materialization_events()
        return {name: value.value for name, value in event.materialization.metadata.items()}

    return materialise


def test_without_a_namespace_the_asset_says_that_it_is_off(materialise):
    assert materialise()["off"] == "cloudwatch.namespace is empty"


def test_the_asset_sends_once_and_remembers_in_the_house(house, aws, materialise, monkeypatch):
    monkeypatch.setattr(asset, "SETTINGS", SETTINGS)
    latest = [{**row, "at": None} for row in house.read_table("metrics/main/monitoring").to_pylist() if row["metric"] == "requests"][-1:]
    house.write_table("metrics/main/monitoring", table(*latest, figure(at=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))))
    first, second = materialise(), materialise()
    assert (first["sent"], first["too_old"]) == (1, 1)
    assert (second["sent"], second["sent_before"]) == (0, 1)
    assert second["dagster/row_count"] == 1 and house.has_table("metrics/cloudwatch_metrics")


def test_a_run_on_simulated_time_sends_nothing(aws, materialise, monkeypatch):
    monkeypatch.setattr(asset, "SETTINGS", SETTINGS)
    assert materialise(**{CLOCK_TAG: NOW.isoformat()})["off"] == "simulated time"
    assert aws.list_metrics(Namespace="MangaAssist")["Metrics"] == []


# ── what is deployed ────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_alarm_watches_a_figure_that_is_sent_or_a_metric_that_the_service_has(results):
    known = {(row["metric"], row["cause"], row["stage"]) for row in results["main.monitoring"].to_pylist() if row["intent"] is None}
    names = set(re.findall(r"^# TYPE (\S+)", Metrics(CollectorRegistry()).render().decode(), re.MULTILINE))
    alarms = [resource["Properties"] for resource in yaml.safe_load((DEPLOY / "alarms.yaml").read_text())["Resources"].values()]
    daily = [alarm for alarm in alarms if "MetricName" in alarm]
    assert len(daily) >= 10
    for alarm in daily:
        dimensions = {each["Name"]: each["Value"] for each in alarm.get("Dimensions", [])}
        assert (alarm["MetricName"], dimensions.get("cause"), dimensions.get("stage")) in known
    asked = [str(alarm["EvaluationCriteria"]) for alarm in alarms if "EvaluationCriteria" in alarm]
    assert {name.removesuffix("_bucket") for query in asked for name in re.findall(r"mangaassist_\w+", query)} <= names

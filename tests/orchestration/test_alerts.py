"""What leaves the house when something goes wrong, and what must not."""

import datetime as dt
import http.server
import json
import threading

import dagster as dg
import pyarrow as pa
import pytest

from mangaassist_assets import settings
from mangaassist_assets.lib.alerting import AlertSettings, send, shortened
from mangaassist_assets.lib.artifacts import House
from mangaassist_assets.lib.drift.triage import DRIFT_TRIAGE
from mangaassist_assets.lib.errors import BadInput, Unavailable
from mangaassist_assets.resources import HouseResource

WEEK = dt.date(2026, 11, 16)
SECRET = "T0KEN-do-not-show"  # noqa: S105


class Webhook(http.server.ThreadingHTTPServer):
    """Answers with the codes it is given, then with 200; keeps what was posted."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.posted, self.codes = [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/hook/{SECRET}"


class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        code = self.server.codes.pop(0) if self.server.codes else 200
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def webhook():
    server = Webhook()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def alerts(tmp_path, monkeypatch, webhook):
    """The module, with the webhook set, and a home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANGAASSIST_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MANGAASSIST_ALERTS__WEBHOOK_URL", webhook.url)
    settings.current.cache_clear()
    from mangaassist_assets import alerts

    monkeypatch.setattr(alerts.time, "sleep", lambda _: None)
    yield alerts
    settings.current.cache_clear()


def triaged(folder, *rows):
    verdicts = [
        {"period": period, "signal": "verdict", "cause": cause, "evidence": "faq 0.70 to 0.82", "action": action, "observed": None,
         "threshold": None, "retrain": retrain, "reason": "messages changed"}
        for period, cause, action, retrain in rows
    ]  # fmt: skip
    House(folder / "home").write_table("drift/drift_triage", pa.Table.from_pylist(verdicts, DRIFT_TRIAGE))


# ── the webhook ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_alert_is_one_json_object_and_without_an_address_nothing_is_sent(webhook):
    assert send({"text": "ドリフト", "week": WEEK}, AlertSettings(webhook.url), pause=lambda _: None)
    assert webhook.posted == [{"text": "ドリフト", "week": "2026-11-16"}]
    assert not send({"text": "nobody"}, AlertSettings(), pause=lambda _: None)


def test_a_webhook_that_is_busy_is_asked_again_and_not_for_ever(webhook):
    pauses = []
    webhook.codes = [503, 429]
    assert send({"text": "x"}, AlertSettings(webhook.url), pause=pauses.append)
    assert pauses == [2.0, 4.0]
    webhook.codes = [500] * 9
    with pytest.raises(Unavailable, match="answered 500"):
        send({"text": "x"}, AlertSettings(webhook.url), pause=pauses.append)
    assert len(webhook.codes) == 6


@pytest.mark.parametrize("code", [302, 400, 404])
def test_a_webhook_that_refuses_or_points_elsewhere_is_asked_once(webhook, code):
    webhook.codes = [code]
    with pytest.raises(Unavailable, match=str(code)):
        send({"text": "x"}, AlertSettings(webhook.url), pause=lambda _: None)
    assert len(webhook.posted) == 1


def test_the_address_of_a_webhook_is_never_shown(webhook):
    webhook.codes = [404]
    settings_of = AlertSettings(webhook.url)
    assert SECRET not in repr(settings_of)
    for unreachable in (settings_of, AlertSettings(f"http://127.0.0.1:1/{SECRET}", attempts=1)):
        with pytest.raises(Unavailable) as raised:
            send({"text": "x"}, unreachable, pause=lambda _: None)
        assert SECRET not in str(raised.value) and raised.value.__cause__ is None
    with pytest.raises(BadInput) as refused:
        AlertSettings(f"ftp://host/{SECRET}")
    assert SECRET not in str(refused.value)


def test_a_long_message_is_cut():
    assert len(shortened("word\n" * 5000)) == 2000


# ── the sensors ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_failed_run_is_told_with_its_cause_and_without_personal_data(alerts, webhook):
    @dg.op
    def reads():
        raise ValueError("a row of jo@example.com")

    @dg.job
    def broken():
        reads()

    with dg.DagsterInstance.ephemeral() as instance:
        result = broken.execute_in_process(instance=instance, raise_on_error=False)
        failure = next(event for event in result.all_events if event.event_type_value == "PIPELINE_FAILURE")
        context = dg.build_run_status_sensor_context("x", failure, instance, result.dagster_run).for_run_failure()
        alerts.run_failures_to_webhook(context)
    (posted,) = webhook.posted
    assert (posted["kind"], posted["id"], posted["steps"]) == ("run_failure", result.run_id, ["reads"])
    assert "of broken failed: ValueError: a row of <EMAIL>" in posted["text"]


def test_a_verdict_is_told_once_and_a_quiet_week_not_at_all(alerts, webhook, tmp_path):
    def look(cursor=None):
        context = dg.build_sensor_context(cursor=cursor, resources={"house": HouseResource(home=str(tmp_path / "home"))})
        return alerts.drift_to_webhook(context)

    assert "mangaassist run" in look().skip_message
    triaged(tmp_path, (WEEK, "none", "nothing", False))
    assert "quiet" in look().skip_message
    triaged(tmp_path, (WEEK - dt.timedelta(7), "data", "label_more", False), (WEEK, "new_intent", "retrain", True))
    webhook.codes = [400]
    refused = look()
    assert "did not answer" in refused.skip_reason.skip_message
    told = look(refused.cursor)
    assert len(webhook.posted) == 2 and webhook.posted[0] == webhook.posted[1]
    assert webhook.posted[1]["text"].startswith("Week of 2026-11-16: new_intent. To do: retrain.")
    assert "nothing new" in look(told.cursor).skip_message


# ── retraining ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def ask(alerts, tmp_path):
    from mangaassist_assets.retraining import drift_to_retrain

    with dg.DagsterInstance.ephemeral() as instance:

        def ask():
            context = dg.build_sensor_context(instance=instance, resources={"house": HouseResource(home=str(tmp_path / "home"))})
            answer = drift_to_retrain(context)
            return answer.skip_message if isinstance(answer, dg.SkipReason) else answer.run_requests[0]

        yield ask, instance


def ran(instance, request, status):
    instance.add_run(dg.DagsterRun(job_name="retrain", tags=dict(request.tags), status=status))


def test_drift_starts_one_retrain_and_says_why_it_does_not(ask, tmp_path):
    ask, instance = ask
    assert "mangaassist run" in ask()
    triaged(tmp_path)
    assert "no whole week" in ask()
    triaged(tmp_path, (WEEK - dt.timedelta(7), "data", "retrain", True), (WEEK, "data", "label_more", False))
    assert ask() == "the week of 2026-11-16 asks for no retrain: messages changed"
    triaged(tmp_path, (WEEK, "data", "retrain", True))
    request = ask()
    assert ask().run_key == request.run_key, "the same key again: Dagster launches it once"
    ran(instance, request, dg.DagsterRunStatus.SUCCESS)
    assert ask() == "the retrain for the week of 2026-11-16 was started"


def test_a_retrain_that_fails_is_tried_under_new_keys_and_not_for_ever(ask, tmp_path):
    ask, instance = ask
    triaged(tmp_path, (WEEK, "data", "retrain", True))
    keys = []
    for _ in range(3):
        request = ask()
        keys.append(request.run_key)
        ran(instance, request, dg.DagsterRunStatus.FAILURE)
    assert len(set(keys)) == 3
    assert "3 retrains" in ask()


def test_the_first_of_a_month_starts_the_same_job(alerts):
    from mangaassist_assets.retraining import retrain, retrain_monthly

    assert retrain_monthly.job_name == retrain.name == "retrain"
    assert retrain_monthly.default_status == dg.DefaultScheduleStatus.RUNNING
    at = dt.datetime(2026, 12, 1, 3, tzinfo=dt.UTC)
    with dg.DagsterInstance.ephemeral() as instance:
        request = retrain_monthly(dg.build_schedule_context(instance, scheduled_execution_time=at))
    assert request.run_key.startswith("2026-12-") and len(request.run_key) == 24

"""Sensors that watch the outside: they ask once for each new content, and give up in words."""

import dagster as dg
import pytest

from mangaassist_assets import runs, settings


@pytest.fixture
def world(tmp_path, monkeypatch, write_project):
    """A small project, its instance, the sensor, and a function that builds the labelled messages as a sensor's run would."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    settings.current.cache_clear()
    from mangaassist_assets.defs.messages import labelled

    monkeypatch.setattr(labelled, "SETTINGS", settings.current())
    with runs.open_instance(tmp_path / ".mangaassist") as instance:
        yield tmp_path, instance, labelled
    settings.current.cache_clear()


def ask(labelled, instance):
    return labelled.message_sources_changed(dg.build_sensor_context(instance=instance))


def build(labelled, instance, folder, *, tags=None, succeeds=True):
    from mangaassist_assets.resources import HouseResource

    assets = [labelled.message_sources, labelled.labelled]
    house = HouseResource(home=str(folder / ".mangaassist"))
    result = dg.materialize(assets, instance=instance, resources={"house": house}, tags=tags, raise_on_error=False)
    assert result.success is succeeds


def requests(answer):
    return [request.run_key for request in answer.run_requests] if isinstance(answer, dg.SensorResult) else []


def seen(answer, instance):
    for event in answer.asset_events:
        instance.report_runless_asset_event(event)


def test_nothing_starts_before_a_person_built_once(world):
    _, instance, labelled = world
    assert "mangaassist run" in ask(labelled, instance).skip_message


def test_new_content_is_asked_for_and_unchanged_content_is_not(world):
    folder, instance, labelled = world
    from mangaassist_assets.outside import look

    look(settings.current(), instance)
    build(labelled, instance, folder)
    assert ask(labelled, instance).skip_message == "nothing changed"
    tickets = folder / "tickets.csv"
    tickets.write_text(tickets.read_text() + "where is my box of berserk,order_tracking\n")
    answer = ask(labelled, instance)
    assert len(requests(answer)) == 1
    assert requests(ask(labelled, instance)) == requests(answer), "the same key again: Dagster launches it once"
    seen(answer, instance)
    build(labelled, instance, folder)
    assert ask(labelled, instance).skip_message == "nothing changed"


def test_a_failed_run_is_tried_under_a_new_key_and_not_for_ever(world):
    folder, instance, labelled = world
    from mangaassist_assets.outside import MOST_ATTEMPTS, look

    look(settings.current(), instance)
    build(labelled, instance, folder)
    (folder / "tickets.csv").write_text("body,category\nhello,chitchat\n")
    keys = []
    for _ in range(MOST_ATTEMPTS):
        answer = ask(labelled, instance)
        keys += requests(answer)
        seen(answer, instance)
        build(labelled, instance, folder, tags=answer.run_requests[0].tags, succeeds=False)
    assert len(set(keys)) == MOST_ATTEMPTS
    assert "correct the sources" in ask(labelled, instance).skip_message

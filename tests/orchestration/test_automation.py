"""The rule that keeps the graph up, told as stories on an ephemeral instance."""

import datetime as dt

import dagster as dg
import pytest

from mangaassist_assets.automation import every_day, every_week, when_inputs_change


class Graph:
    """`source -> model -> report`, a pretend world to change and ticks to answer it."""

    def __init__(self) -> None:
        self.content, self.broken, self.code = {"source": "a", "model": "m"}, set(), "1"
        self.instance, self.cursor = dg.DagsterInstance.ephemeral(), None

    def definitions(self) -> dg.Definitions:
        def make(name, deps, **kwargs):
            @dg.asset(name=name, deps=deps, **kwargs)
            def built():
                if name in self.broken:
                    raise RuntimeError("broken")
                return dg.MaterializeResult(data_version=dg.DataVersion(self.content.get(name, "r")))

            return built

        rule = when_inputs_change()
        return dg.Definitions(
            assets=[
                make("source", []),
                make("model", ["source"], automation_condition=rule, code_version=self.code),
                make("report", ["model"], automation_condition=rule),
            ]
        )

    def build(self, *names: str) -> None:
        job = self.definitions().resolve_implicit_global_asset_job_def()
        for name in names:
            job.execute_in_process(instance=self.instance, asset_selection=[dg.AssetKey(name)], raise_on_error=False)

    def tick(self) -> list[str]:
        result = dg.evaluate_automation_conditions(
            defs=self.definitions(), instance=self.instance, cursor=self.cursor, asset_selection=dg.AssetSelection.all()
        )
        self.cursor = result.cursor
        return [name for name in ("model", "report") if result.get_num_requested(dg.AssetKey(name))]

    def ticks(self, n: int = 3) -> list[str]:
        """Ticks n times, each followed by the runs it asked for; returns all that were asked for."""
        asked = []
        for _ in range(n):
            names = self.tick()
            self.build(*names)
            asked += names
        return asked


@pytest.fixture
def graph():
    graph = Graph()
    graph.build("source", "model", "report")
    assert graph.ticks() == []
    return graph


def test_nothing_starts_by_itself_on_an_empty_instance():
    assert Graph().ticks() == []


def test_a_changed_input_rebuilds_what_is_below_it_once(graph):
    graph.content |= {"source": "b", "model": "n"}
    graph.build("source")
    assert graph.ticks(5) == ["model", "report"]


def test_an_input_rebuilt_to_the_same_bytes_reruns_nothing(graph):
    graph.build("source")
    assert graph.ticks() == []


def test_an_unchanged_result_stops_the_wave_there(graph):
    graph.content["source"] = "b"
    graph.build("source")
    assert graph.ticks(5) == ["model"]


def test_changed_code_or_settings_rebuild_the_asset(graph):
    graph.code = "2"
    assert graph.ticks() == ["model"]


def test_an_update_whose_run_failed_is_not_forgotten(graph):
    graph.content |= {"source": "b", "model": "n"}
    graph.build("source")
    graph.broken = {"model"}
    assert graph.ticks(1) == ["model"]
    graph.broken = set()
    assert graph.ticks(4) == ["model", "report"]


def test_the_failure_retry_is_one_run_not_a_treadmill(graph):
    graph.content |= {"source": "b"}
    graph.broken = {"model"}
    graph.build("source")
    assert graph.ticks(8) == ["model", "model"]


def test_a_new_input_tries_a_failed_asset_again(graph):
    graph.content |= {"source": "b"}
    graph.broken = {"model"}
    graph.build("source")
    graph.ticks(6)
    graph.content |= {"source": "c"}
    graph.build("source")
    assert graph.tick() == ["model"]


def test_a_change_that_arrives_while_the_run_for_the_last_one_is_acknowledged_is_kept(graph):
    graph.content |= {"source": "b", "model": "n"}
    graph.build("source")
    assert graph.tick() == ["model"]
    graph.build("model")
    graph.content |= {"source": "c", "model": "o"}
    graph.build("source")
    assert "model" in graph.ticks(3)


def test_what_a_person_already_rebuilt_is_not_rebuilt_again(graph):
    graph.content |= {"source": "b", "model": "n"}
    graph.broken = {"model"}
    graph.build("source", "model")
    graph.broken = set()
    asked = graph.tick()
    assert asked == ["model"]
    graph.build("model", "report")
    assert "model" not in graph.ticks(4)


@pytest.mark.parametrize(("at_rest", "asked"), [(True, False), (False, True)])
def test_what_reads_every_day_does_not_wait_until_none_is_being_read(at_rest, asked):
    days = dg.DynamicPartitionsDefinition(name="days")

    @dg.asset(partitions_def=days)
    def counts(context):
        return dg.MaterializeResult(data_version=dg.DataVersion(context.run.tags.get("content", "a")))

    @dg.asset(deps=[counts], automation_condition=when_inputs_change(at_rest=at_rest))
    def traffic(): ...

    definitions, everything = dg.Definitions(assets=[counts, traffic]), dg.AssetSelection.all()
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={counts.key})
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("days", ["monday"])
        dg.materialize([counts], instance=instance, partition_key="monday")
        dg.materialize([counts, traffic], instance=instance, selection=[traffic])
        tick = dg.evaluate_automation_conditions(defs=definitions, instance=instance, asset_selection=everything)
        dg.materialize([counts], instance=instance, partition_key="monday", tags={"content": "b"})
        run = instance.create_run_for_job(job, asset_selection=frozenset({counts.key}), tags={"dagster/partition": "monday"})
        instance.handle_run_event(run.run_id, dg.DagsterEvent(dg.DagsterEventType.PIPELINE_START.value, job.name))
        tick = dg.evaluate_automation_conditions(defs=definitions, instance=instance, cursor=tick.cursor, asset_selection=everything)
        assert bool(tick.get_num_requested(traffic.key)) is asked


def test_what_reads_all_traffic_is_rebuilt_once_a_week_whatever_happens_above_it():
    @dg.asset
    def interactions(): ...

    @dg.asset(deps=[interactions], automation_condition=every_week())
    def feedback_queries(): ...

    definitions, cursor, asked = dg.Definitions(assets=[interactions, feedback_queries]), None, []
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([interactions, feedback_queries], instance=instance)
        for hour in range(-40, 24 * 15, 4):  # from before a Monday, 04:00 UTC
            now = dt.datetime(2026, 10, 5, 4, 1, tzinfo=dt.UTC) + dt.timedelta(hours=hour)
            result = dg.evaluate_automation_conditions(
                defs=definitions, instance=instance, cursor=cursor, evaluation_time=now, asset_selection=dg.AssetSelection.all()
            )
            cursor = result.cursor
            dg.materialize([interactions], instance=instance)
            if result.get_num_requested(feedback_queries.key):
                asked.append(now.date())
                dg.materialize([interactions, feedback_queries], instance=instance, selection=[feedback_queries])
    assert asked == [dt.date(2026, 10, 5), dt.date(2026, 10, 12), dt.date(2026, 10, 19)]


def test_what_tells_of_days_that_are_over_is_also_rebuilt_soon_after_midnight():
    @dg.asset
    def monitoring():
        return dg.MaterializeResult(data_version=dg.DataVersion("a"))

    @dg.asset(deps=[monitoring], automation_condition=when_inputs_change() | every_day())
    def cloudwatch_metrics(): ...

    definitions, cursor, asked = dg.Definitions(assets=[monitoring, cloudwatch_metrics]), None, []
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([monitoring, cloudwatch_metrics], instance=instance)
        for hour in range(49):
            now = dt.datetime(2026, 10, 5, 1, 20, tzinfo=dt.UTC) + dt.timedelta(hours=hour)
            result = dg.evaluate_automation_conditions(
                defs=definitions, instance=instance, cursor=cursor, evaluation_time=now, asset_selection=dg.AssetSelection.all()
            )
            cursor = result.cursor
            if result.get_num_requested(cloudwatch_metrics.key):
                asked.append(now)
                dg.materialize([monitoring, cloudwatch_metrics], instance=instance, selection=[cloudwatch_metrics])
    assert asked == [dt.datetime(2026, 10, day, 0, 20, tzinfo=dt.UTC) for day in (6, 7)]

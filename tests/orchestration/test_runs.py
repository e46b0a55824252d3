"""Waves of runs over a pretend graph: `words` -> `models` (partitions) -> `choice` -> `page`, with `words` read from outside."""

import datetime as dt

import dagster as dg
import pytest
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from mangaassist_assets import runs
from mangaassist_assets.lib.errors import BadInput, Conflict
from mangaassist_assets.reporting import CLOCK_TAG


class World:
    def __init__(self) -> None:
        self.content, self.broken, self.built, self.code = {}, set(), [], "1"

    def definitions(self) -> dg.Definitions:
        def make(name, deps, **kwargs):
            @dg.asset(name=name, deps=deps, **kwargs)
            def built(context: dg.AssetExecutionContext):
                target = str(runs.Target(name, context.partition_key if context.has_partition_key else None))
                if target in self.broken:
                    raise BadInput("it is empty", where="words.csv", remedy="Fill it")
                self.built.append(target)
                return dg.MaterializeResult(data_version=dg.DataVersion(self.content.get(target, "same")))

            return built

        parts = dg.StaticPartitionsDefinition(["a", "b"])
        return dg.Definitions(
            assets=[
                dg.AssetSpec("outside"),
                make("words", ["outside"]),
                make("models", ["words"], partitions_def=parts, code_version=self.code),
                make("choice", ["models"]),
                make("page", ["choice"]),
            ]
        )


@pytest.fixture
def world():
    return World()


@pytest.fixture
def instance(tmp_path):
    with runs.open_instance(tmp_path) as instance:
        yield instance


def bring(world, instance):
    world.built.clear()
    events = list(runs.bring_up_to_date(world.definitions(), instance))
    return [str(e.target) for e in events if e.state == "built"], [e for e in events if e.state == "failed"]


def test_a_first_run_builds_everything_once_in_order(world, instance):
    built, failed = bring(world, instance)
    assert built == world.built == ["words", "models[a]", "models[b]", "choice", "page"]
    assert not failed


def test_a_second_run_builds_nothing_and_records_no_run(world, instance):
    bring(world, instance)
    before = instance.get_runs_count()
    assert bring(world, instance) == ([], [])
    assert instance.get_runs_count() == before


def test_an_unchanged_digest_ends_the_work_below_it(world, instance):
    bring(world, instance)
    instance.report_runless_asset_event(dg.AssetMaterialization("outside", tags={DATA_VERSION_TAG: "new"}))
    assert bring(world, instance)[0] == ["words"]


def test_one_changed_partition_rebuilds_what_reads_it_and_no_other_partition(world, instance):
    bring(world, instance)
    world.content |= {"words": "more", "models[b]": "better"}
    instance.report_runless_asset_event(dg.AssetMaterialization("outside", tags={DATA_VERSION_TAG: "new"}))
    assert bring(world, instance)[0] == ["words", "models[a]", "models[b]", "choice"]
    assert bring(world, instance) == ([], [])


def test_changed_settings_make_every_partition_stale(world, instance):
    bring(world, instance)
    world.code = "2"
    assert bring(world, instance)[0] == ["models[a]", "models[b]"]


def test_a_failed_partition_leaves_the_others_built_and_says_why_in_one_line(world, instance):
    world.broken = {"models[a]"}
    built, failed = bring(world, instance)
    assert built == ["words", "models[b]"]
    assert [(str(f.target), f.message) for f in failed] == [("models[a]", "words.csv: it is empty. Fill it")]
    assert "Traceback" not in failed[0].message and "raise BadInput" in failed[0].detail
    world.broken = set()
    assert bring(world, instance)[0] == ["models[a]", "choice", "page"]


def test_runs_of_a_killed_process_are_marked_as_failed(world, instance):
    job = world.definitions().resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job, tags=runs.LAUNCHED_BY, status=dg.DagsterRunStatus.STARTED)
    other = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert runs.fail_abandoned_runs(instance) == 1
    assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
    assert instance.get_run_by_id(other.run_id).status == dg.DagsterRunStatus.STARTED


def test_two_runs_on_one_home_do_not_meet(tmp_path):
    with runs.only_run(tmp_path), pytest.raises(Conflict, match="is at work here"), runs.only_run(tmp_path):
        pass
    with runs.only_run(tmp_path):
        pass


def test_an_instance_keeps_the_settings_that_its_owner_wrote(tmp_path):
    folder = runs.prepare_instance(tmp_path)
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    runs.prepare_instance(tmp_path)
    assert (folder / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"


def test_what_a_blocking_check_refused_is_not_built_upon_by_the_next_run(instance):
    verdicts = {"clean": False}

    @dg.asset
    def table():
        return dg.MaterializeResult(data_version=dg.DataVersion("x"))

    @dg.asset_check(asset="table", blocking=True)
    def is_clean():
        return dg.AssetCheckResult(passed=verdicts["clean"], description="3 rows hold an e-mail address")

    @dg.asset(deps=["table"])
    def model():
        return dg.MaterializeResult(data_version=dg.DataVersion("y"))

    definitions = dg.Definitions(assets=[table, model], asset_checks=[is_clean])
    for _ in range(2):
        events = list(runs.bring_up_to_date(definitions, instance))
        assert [str(e.target) for e in events if e.state == "built"] == ["table"]
        assert [e.message for e in events if e.state == "failed"] == ["table fails its check is_clean: 3 rows hold an e-mail address"]
    verdicts["clean"] = True
    events = list(runs.bring_up_to_date(definitions, instance))
    assert [str(e.target) for e in events if e.state == "built"] == ["table", "model"]
    assert runs.needed(definitions, instance) == []


class Days:
    """`segments` (a day each, from outside) -> `counts` (a day each, a range in one run) -> `total`."""

    def __init__(self, instance) -> None:
        self.instance, self.ranges, self.totals = instance, [], 0
        self.days = dg.DynamicPartitionsDefinition(name="day")

    def arrive(self, *days, digest="1"):
        self.instance.add_dynamic_partitions("day", list(days))
        for day in days:
            self.instance.report_runless_asset_event(dg.AssetMaterialization("segments", partition=day, tags={DATA_VERSION_TAG: digest}))

    def definitions(self) -> dg.Definitions:
        specs = [dg.AssetSpec(name, deps=["segments"], partitions_def=self.days, code_version="1") for name in ("counts", "moments")]

        @dg.multi_asset(name="day", specs=specs, backfill_policy=dg.BackfillPolicy.single_run())
        def day(context: dg.AssetExecutionContext):
            self.ranges.append(list(context.partition_keys))
            for spec in specs:
                yield dg.MaterializeResult(asset_key=spec.key, data_version=dg.DataVersion("-".join(context.partition_keys)))

        @dg.asset(deps=["counts"], code_version="1")
        def total():
            self.totals += 1
            return dg.MaterializeResult(data_version=dg.DataVersion(str(self.totals)))

        return dg.Definitions(assets=[dg.AssetSpec("segments", partitions_def=self.days), day, total])


def test_days_in_a_row_are_built_by_one_run_and_a_day_that_changed_by_another(instance):
    days = Days(instance)
    days.arrive("2026-01-01", "2026-01-02", "2026-01-03")
    assert bring_days(days) == [["2026-01-01", "2026-01-02", "2026-01-03"]]
    days.arrive("2026-01-01", "2026-01-03", digest="2")
    assert bring_days(days) == [["2026-01-01"], ["2026-01-03"]]
    assert bring_days(days) == []
    assert days.totals == 2


def test_a_day_after_a_hundred_others_still_reaches_what_reads_them_all(instance):
    days = Days(instance)
    days.arrive(*(f"day-{number:03}" for number in range(120)))
    bring_days(days)
    days.arrive("day-120")
    assert bring_days(days) == [["day-120"]]
    assert days.totals == 2


def test_runs_are_told_the_simulated_time(world, instance):
    clock = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    list(runs.bring_up_to_date(world.definitions(), instance, clock=clock))
    assert {run.tags[CLOCK_TAG] for run in instance.get_runs()} == {clock.isoformat()}


def bring_days(days):
    days.ranges.clear()
    assert [e for e in runs.bring_up_to_date(days.definitions(), days.instance) if e.state == "failed"] == []
    return list(days.ranges)

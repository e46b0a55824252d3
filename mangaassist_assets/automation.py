"""When an asset is rebuilt without being asked: one rule for the whole graph, and the sensor that applies it."""

import dagster as dg

AC = dg.AutomationCondition


def when_inputs_change(*, at_rest: bool = True) -> dg.AutomationCondition:
    """Rebuild once an input's content, the asset's own code, or its settings have changed.

    Args:
        at_rest: wait until no input is being built. False is for what reads all days of traffic: while the service answers, some day is
            being read at most moments, and at every moment that is looked at where both come in the same rhythm.

    The clauses, and why each is as it is:

    - `inputs_changed` compares data versions, which here are content digests. Dagster's `eager()` compares
      materialisations, so an upstream asset that is rebuilt to the same bytes would retrain every model below it.
    - `changed` is an edge: true on one tick only. If the asset cannot run on that tick (it is running, an input is running,
      a blocking check has failed), the edge would be lost. `.since(handled)` latches it until a run has been asked for.
    - `handled` does not clear a reason that arrives on the very tick on which the run for the previous one is acknowledged: that
      run may have read the input before it changed, or may be the one that failed.
    - `failed_first` asks for one more run when a run fails, so that an update whose run met a passing trouble is not forgotten.
      `execution_failed()` is a level, and its rising edge comes back with every retry; the rising edge of its latch comes
      once between two changes or successes. What fails twice on the same input waits for a new input or for a person.
    - Nothing starts on the first evaluation: opening a UI on an empty instance does not train models. `mangaassist run`, or
      materialising once, is the start; from then on the graph keeps itself up.
    """
    inputs_changed = AC.any_deps_match(AC.data_version_changed()).with_label("inputs_changed")
    logic_changed = AC.code_version_changed()
    went_missing = (AC.newly_missing() & ~AC.initial_evaluation()).with_label("went_missing")
    changed = (inputs_changed | logic_changed | went_missing).with_label("changed")

    failed = AC.execution_failed().newly_true().since(changed | AC.newly_updated())
    failed_first = failed.newly_true().with_label("failed_first")

    reason = changed | failed_first
    handled = (~reason & (AC.newly_requested() | AC.newly_updated())).with_label("handled")
    owed = reason.since(handled).with_label("owed")

    idle = ~AC.in_progress()
    if at_rest:
        idle &= ~AC.any_deps_in_progress()
    inputs_ready = ~AC.any_deps_missing() & AC.all_deps_blocking_checks_passed()
    return (owed & idle & inputs_ready).with_label("when_inputs_change")


def every_day() -> dg.AutomationCondition:
    """Rebuild soon after midnight, UTC: for what tells of days that are over, which no input changes with."""
    due = AC.cron_tick_passed("15 0 * * *").since(AC.newly_requested() | AC.newly_updated())
    return (due & ~AC.in_progress() & ~AC.any_deps_in_progress() & ~AC.any_deps_missing()).with_label("every_day")


def every_week() -> dg.AutomationCondition:
    """Rebuild early on Monday, UTC: for what reads every day's traffic and would otherwise retrain a model each day."""
    due = AC.cron_tick_passed("0 4 * * 1").since(AC.newly_requested() | AC.newly_updated())
    return (due & ~AC.in_progress() & ~AC.any_deps_missing()).with_label("every_week")


automation_sensor = dg.AutomationConditionSensorDefinition(
    "keep_up_to_date",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Rebuilds what `when_inputs_change` says is owed.",
)

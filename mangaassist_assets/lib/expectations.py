"""A Great Expectations suite over a table in memory: claims in, what was seen of each out."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

LISTED_ROWS = 20


@dataclass(frozen=True)
class ExpectationResult:
    """How one expectation fared.

    Attributes:
        name: the claim, as an identifier.
        passed: whether it holds.
        observed: what was seen, without any message text.
        unexpected_rows: keys of rows that break it, at most LISTED_ROWS; empty for claims about the whole table.
    """

    name: str
    passed: bool
    observed: str
    unexpected_rows: list[str]


def validated(frame: "pd.DataFrame", claims: Mapping[str, tuple[str, dict[str, Any]]], *, table: str, key: str) -> list[ExpectationResult]:
    """Validates all claims in one call over one batch.

    Args:
        frame: every row is looked at.
        claims: class of `great_expectations.expectations` and its arguments by name of the claim.
        table: its name.
        key: the column that names a row.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package warns about its own imports and about pandas; neither is ours to act on
        import great_expectations as gx
        import great_expectations.expectations as gxe
        from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults, ProgressBarsConfig

        config = DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            progress_bars=ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        )
        context = gx.get_context(mode="ephemeral", project_config=config)
        asset = context.data_sources.add_pandas("memory").add_dataframe_asset(table)
        expectations = [getattr(gxe, kind)(**arguments, meta={"name": name}) for name, (kind, arguments) in claims.items()]
        suite = context.suites.add(gx.ExpectationSuite(table, expectations=expectations))
        validation = gx.ValidationDefinition(name=table, data=asset.add_batch_definition_whole_dataframe("all"), suite=suite)
        outcome = context.validation_definitions.add(validation).run(
            batch_parameters={"dataframe": frame},
            result_format={
                "result_format": "SUMMARY",
                "partial_unexpected_count": LISTED_ROWS,
                "unexpected_index_column_names": [key],
            },
        )
    by_name = {result.expectation_config.meta["name"]: result for result in outcome.results}
    return [_result(name, by_name[name], key) for name in claims]


def _result(name: str, outcome: Any, key: str) -> ExpectationResult:
    seen = dict(outcome.result)
    rows = [str(row[key]) for row in seen.get("partial_unexpected_index_list") or []]
    if "unexpected_count" in seen:
        observed = f"{seen['unexpected_count']:,} of {seen['element_count']:,} rows unexpected"
    elif seen.get("partial_missing_list"):
        observed = f"missing: {', '.join(map(str, seen['partial_missing_list']))}"
    elif seen:
        observed = "nothing missing" if seen.get("observed_value") is None else f"{seen['observed_value']}"
    else:
        messages = [info["exception_message"] for info in outcome.exception_info.values() if isinstance(info, dict)]
        observed = f"could not be evaluated: {messages[0] if messages else outcome.exception_info}"
    return ExpectationResult(name, bool(outcome.success), observed, rows[:LISTED_ROWS])

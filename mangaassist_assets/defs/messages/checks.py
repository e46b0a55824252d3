"""Claims about labelled messages: nothing is trained on a table that breaks one."""

from collections.abc import Iterator

import dagster as dg

from mangaassist_assets.lib.messages.expectations import check_labeled_messages, expectation_names
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current

SETTINGS = current()


@dg.multi_asset_check(
    specs=[dg.AssetCheckSpec(name, asset="labeled_messages", blocking=True) for name in expectation_names()],
    name="labeled_messages_expectations",
)
def labeled_messages_expectations(house: HouseResource) -> Iterator[dg.AssetCheckResult]:
    """A Great Expectations suite, one check for each expectation."""
    frame = house.open().read_table("messages/labeled_messages").to_pandas()
    out_of_scope = SETTINGS.intents.training.out_of_scope_label
    for result in check_labeled_messages(frame, out_of_scope=out_of_scope, max_chars=SETTINGS.messages.limits.max_chars):
        yield dg.AssetCheckResult(
            check_name=result.name,
            asset_key="labeled_messages",
            passed=result.passed,
            description=result.observed,
            metadata={"unexpected_message_ids": result.unexpected_rows},
        )

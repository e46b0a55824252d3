"""More training messages, made from the ones there are."""

import dagster as dg

from mangaassist_assets.automation import when_inputs_change
from mangaassist_assets.lib.artifacts import digest_of, digest_of_file
from mangaassist_assets.lib.messages.augmentation.bedrock import BedrockGenerator
from mangaassist_assets.lib.messages.augmentation.generator import PROTECTED_SPLITS, Generator, augment, counts_of
from mangaassist_assets.lib.messages.augmentation.lexica import Lexicon
from mangaassist_assets.lib.messages.augmentation.lexicon import LexiconGenerator
from mangaassist_assets.lib.messages.duplicates import near_duplicates_of
from mangaassist_assets.reporting import materialised
from mangaassist_assets.resources import HouseResource
from mangaassist_assets.settings import current, version

SETTINGS, OUT_OF_SCOPE = current().messages, current().intents.training.out_of_scope_label
TABLE = "messages/augmented_messages"
LEXICA = [digest_of_file(path) for path in sorted(SETTINGS.lexica.glob("*.*"))]


@dg.asset(
    deps=["labeled_messages"],
    group_name="messages",
    owners=["team:data-science"],
    kinds={"python", "parquet"},
    code_version=version("1", SETTINGS.augmentation, SETTINGS.generator, SETTINGS.bedrock, LEXICA, OUT_OF_SCOPE),
    automation_condition=when_inputs_change(),
)
def augmented_messages(house: HouseResource) -> dg.MaterializeResult:
    """One row per new training message, with its parents, its recipe and its state of review; none resembles a message that measures."""
    store = house.open()
    table, refused = augment(store.read_table("messages/labeled_messages"), generator(), SETTINGS.augmentation)
    digests = [store.write_table(TABLE, table), store.write_table(TABLE, refused, part="refused")]
    counts = counts_of(table, refused)
    reasons = {f"refused_{reason}": n for reason, n in counts["refused_by"].items()}
    return materialised(
        digest_of(digests),
        table,
        show=table.select(["text", "intent", "secondary_intent", "slices", "recipe", "review"]),
        figures={"refused": counts["refused"], "cost_usd": counts["cost_usd"], **reasons},
    )


def generator() -> Generator:
    """The one that the settings name."""
    lexicon = Lexicon(SETTINGS.lexica)
    if SETTINGS.bedrock is not None and SETTINGS.generator == "bedrock":
        return BedrockGenerator(SETTINGS.bedrock, lexicon)
    return LexiconGenerator(lexicon, out_of_scope_label=OUT_OF_SCOPE)


@dg.asset_check(asset="augmented_messages", blocking=True)
def no_row_resembles_a_message_that_measures(house: HouseResource) -> dg.AssetCheckResult:
    """No augmented message is a near-duplicate of a validation, test or golden message, whoever wrote the table."""
    store = house.open()
    labelled = store.read_table("messages/labeled_messages").select(["text", "split"]).to_pylist()
    protected = [row["text"] for row in labelled if row["split"] in PROTECTED_SPLITS]
    augmented = store.read_table(TABLE)
    nearest = near_duplicates_of(augmented["text"].to_pylist(), protected, SETTINGS.augmentation.near_duplicate)
    found = [name for name, near in zip(augmented["message_id"].to_pylist(), nearest, strict=True) if near is not None]
    return dg.AssetCheckResult(
        passed=not found,
        description=f"{len(found)} of {len(augmented)} rows do",
        metadata={"rows": len(found), "message_ids": found[:20]},
    )

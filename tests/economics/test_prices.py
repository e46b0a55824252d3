"""A price has a period and a source; a day without one is an error, never zero."""

import datetime as dt
import math
from pathlib import Path

import pytest

from mangaassist_assets.lib.economics.prices import read_prices, usd_per_million
from mangaassist_assets.lib.errors import BadInput

BUNDLED = Path(__file__).parents[2] / "data" / "instance_prices.toml"
TODAY = dt.date(2026, 11, 24)
HEAD = 'as_of = 2026-01-01\nregion = "us-east-1"\n'


def written(tmp_path, *rows, head=HEAD):
    path = tmp_path / "prices.toml"
    path.write_text(head + "".join(f"[[price]]\n{row}\n" for row in rows), "utf-8")
    return path


def test_the_bundled_list_says_where_and_as_of_when():
    prices = read_prices(BUNDLED)
    assert prices.region == "us-east-1"
    assert prices.as_of <= TODAY
    assert "from memory" in BUNDLED.read_text("utf-8")


@pytest.mark.parametrize("instance", ["ml.g4dn.xlarge", "ml.g5.xlarge", "ml.c6i.large", "ml.c6i.xlarge", "ml.m5.large", "ml.inf2.xlarge"])
def test_common_inference_instances_have_a_price_today(instance):
    assert 0.05 < read_prices(BUNDLED).lookup(instance, TODAY).usd_per_hour < 2


def test_the_source_documents_own_figures_are_kept_apart_from_the_list():
    prices = read_prices(BUNDLED)
    figures = [prices.lookup(i, TODAY, source="source_document").usd_per_hour for i in ("ml.g4dn.xlarge", "larger GPU", "CPU")]
    assert figures == [0.736, 1.204, 0.340]
    assert prices.lookup("ml.g4dn.xlarge", TODAY).usd_per_hour == 0.7364
    with pytest.raises(BadInput, match="larger GPU"):
        prices.lookup("larger GPU", TODAY)


def test_a_new_price_holds_from_its_day_and_the_old_one_until_then(tmp_path):
    prices = read_prices(
        written(
            tmp_path,
            'instance = "a"\nusd_per_hour = 1\neffective_from = 2026-01-01\neffective_until = 2026-03-01',
            'instance = "a"\nusd_per_hour = 2.5\neffective_from = 2026-03-01',
        )
    )
    assert prices.lookup("a", dt.date(2026, 2, 28)).usd_per_hour == 1
    assert prices.lookup("a", dt.date(2026, 3, 1)).usd_per_hour == 2.5
    with pytest.raises(BadInput, match="in force on 2025-12-31"):
        prices.lookup("a", dt.date(2025, 12, 31))


def test_an_unknown_instance_names_the_file_and_those_that_are_priced(tmp_path):
    prices = read_prices(written(tmp_path, 'instance = "a"\nusd_per_hour = 1\neffective_from = 2026-01-01'))
    with pytest.raises(BadInput, match=r"prices\.toml: no price of 'b' from 'list'; it prices a\. Add a row"):
        prices.lookup("b", TODAY)


GOOD = 'instance = "a"\nusd_per_hour = 1\neffective_from = 2026-01-01'


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "at least one"),
        ([GOOD + '\ncolour = "red"'], "price 1: unknown key colour"),
        ([GOOD, GOOD], r"price 2: a has two prices from 2026-01-01.*effective_until"),
        ([GOOD.replace("= 1", "= -1")], "-1 is no price"),
        ([GOOD.replace("= 1", "= nan")], "nan is no price"),
        ([GOOD.replace("= 1", '= "1"')], "'1' is no price"),
        ([GOOD.replace("= 1", "= true")], "True is no price"),
        ([GOOD.replace("2026-01-01", '"2026-01-01"')], "effective_from is a date"),
        ([GOOD + "\neffective_until = 2026-01-01"], "not after effective_from"),
        ([GOOD.replace('"a"', '""')], "are names"),
    ],
)
def test_a_price_list_that_cannot_be_meant_is_refused_with_its_row(tmp_path, rows, problem):
    with pytest.raises(BadInput, match=problem):
        read_prices(written(tmp_path, *rows))


@pytest.mark.parametrize("content", ["as_of =", "[price]\nx = 1\n", 'as_of = "yesterday"\nregion = "x"\n'])
def test_a_file_of_another_form_is_refused(tmp_path, content):
    with pytest.raises(BadInput, match=r"prices\.toml"):
        read_prices(written(tmp_path, head=content))
    with pytest.raises(BadInput, match="not readable"):
        read_prices(tmp_path / "absent.toml")


def test_a_million_messages_cost_the_hours_they_take():
    assert usd_per_million(0.736, 1000) == pytest.approx(0.736 * 1e6 / 1000 / 3600)
    assert math.isnan(usd_per_million(0.736, 0))
    assert math.isnan(usd_per_million(0.736, math.nan))

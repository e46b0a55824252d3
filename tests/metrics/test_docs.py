import re

import pytest

from mangaassist_assets.lib.metrics.sql_files import SQL_FOLDER
from mangaassist_assets.lib.metrics.warehouse import query

PAGE = (SQL_FOLDER.parent / "docs" / "metrics.md").read_text("utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_lists_every_table(files):
    listed = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted(file.table for file in files if file.schema == "main")


@pytest.mark.parametrize("sql", QUERIES)
def test_every_query_of_the_page_is_answered(published, sql):
    assert query(published, sql).rows

from __future__ import annotations

from datetime import datetime

import pytest

from appliance.schedule import parse


@pytest.mark.parametrize(
    ("text", "after", "due"),
    [
        ("0 2 * * 0", "2026-11-22T20:00", "2026-11-29T02:00"),  # Sundays
        ("0 2 * * 7", "2026-11-22T20:00", "2026-11-29T02:00"),
        ("*/15 * * * *", "2026-11-22T20:07", "2026-11-22T20:15"),
        ("5,35 8-18/2 * * 1-5", "2026-11-20T18:40", "2026-11-23T08:05"),
        ("0 0 29 2 *", "2026-03-01T00:00", "2028-02-29T00:00"),
        ("0 0 1 * 1", "2026-11-22T20:00", "2026-11-23T00:00"),  # either day is enough, as in cron
        ("30 1 1 1 *", "2026-01-01T01:30", "2027-01-01T01:30"),
    ],
)
def test_the_next_minute_that_is_due(text: str, after: str, due: str) -> None:
    assert parse(text).after(datetime.fromisoformat(after)) == datetime.fromisoformat(due)


def test_a_day_that_never_comes_is_never_due() -> None:
    assert parse("0 0 31 2 *").after(datetime(2026, 1, 1)) is None


@pytest.mark.parametrize("text", ["", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "a * * * *", "*/0 * * * *"])
def test_what_is_no_cron_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cron|fields|between"):
        parse(text)

"""Identifiers: ordered by time, unique, and safe wherever they are written."""

from datetime import UTC, datetime, timedelta

import pytest

from kit.errors import InvalidInput, Violation
from kit.ids import new_id, parse_id, parse_tenant

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ID_RULE = (
    "must be 1 to 63 characters of a-z, 0-9, '_', '.' and '-', starting with a letter or digit"
)
TENANT_RULE = "must be 1 to 63 characters of a-z, 0-9 and '-', starting with a letter or digit"


def test_identifiers_sort_by_the_time_they_were_made() -> None:
    """A later millisecond sorts later, over all the time that fits."""
    moments = [EPOCH, NOON, NOON + timedelta(milliseconds=1), datetime(9999, 1, 1, tzinfo=UTC)]
    ids = [new_id("inv", moment) for moment in moments]

    assert sorted(ids) == ids


def test_an_identifier_begins_with_the_ulid_of_its_time() -> None:
    """The first ten characters are the milliseconds in Crockford's Base32, as ULIDs have them."""
    # 1469918176385 ms is the example of https://github.com/ulid/javascript: 01ARYZ6S41.
    moment = EPOCH + timedelta(milliseconds=1_469_918_176_385)

    assert new_id("inv", moment)[:14] == "inv_01aryz6s41"


def test_identifiers_of_one_moment_differ() -> None:
    """80 random bits keep them apart, and every one is a valid identifier."""
    ids = {new_id("evt", NOON) for _ in range(1000)}

    assert len(ids) == 1000
    assert {parse_id(each, "id") for each in ids} == ids
    assert {len(each) for each in ids} == {30}


@pytest.mark.parametrize("text", ["a", "0", "gpt-4.1_mini", "a" * 63])
def test_a_valid_identifier_is_taken_as_it_is(text: str) -> None:
    """Letters, digits, underscore, point and hyphen, up to 63."""
    assert parse_id(text, "meter_id") == text


@pytest.mark.parametrize(
    ("text", "description"),
    [
        pytest.param("", "is required", id="empty"),
        pytest.param("A", ID_RULE, id="upper case"),
        pytest.param("-a", ID_RULE, id="a hyphen first"),
        pytest.param("a" * 64, ID_RULE, id="too long"),
        pytest.param("a b", ID_RULE, id="a space"),
        pytest.param("a\n", ID_RULE, id="a line end"),
        pytest.param("a:b", ID_RULE, id="a colon, which parts Redis keys"),
        pytest.param("é", ID_RULE, id="another script"),
    ],
)
def test_an_invalid_identifier_is_refused(text: str, description: str) -> None:
    """The error names the field."""
    with pytest.raises(InvalidInput) as refused:
        parse_id(text, "meter_id")

    assert refused.value.violations == (Violation("meter_id", description),)


@pytest.mark.parametrize("text", ["", "Acme", "a_b", "a.b", "-a", "a" * 64, "acme\n"])
def test_a_tenant_is_stricter(text: str) -> None:
    """A tenant's id is a host name's label."""
    assert parse_tenant("acme-2") == "acme-2"
    with pytest.raises(InvalidInput) as refused:
        parse_tenant(text)

    assert refused.value.violations == (Violation("tenant", TENANT_RULE),)

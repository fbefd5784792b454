"""Registrations beside each other: what may be put, and what contradicts another."""

from dataclasses import replace
from datetime import date

import pytest

from kit.errors import InvalidInput
from services.tax.model import DateRange, Registration, RegistrationScheme
from services.tax.registrations import check_registration
from tests.tax_builders import BOOK, a_registration

SEAT = a_registration("US", "CA", registration_id="seat", established=True)
OSS = a_registration("IE", scheme=RegistrationScheme.NON_UNION_OSS, registration_id="oss")
OTHERS = (SEAT, OSS)


@pytest.mark.parametrize(
    "registration",
    [
        SEAT,
        replace(SEAT, number="new"),
        a_registration("US", "NY"),
        a_registration("CA"),
        a_registration("IE"),
        a_registration("DE", scheme=RegistrationScheme.EU_BELOW_THRESHOLD),
    ],
    ids=["itself", "itself anew", "other state", "other country", "other scheme", "in the EU"],
)
def test_what_contradicts_nothing_may_be_put(registration: Registration) -> None:
    """The same id replaces; another place or scheme stands beside."""
    check_registration(registration, OTHERS, BOOK)


def test_one_scheme_may_follow_itself() -> None:
    """The first day of the next is the first on which the last is no longer in force."""
    ended = replace(OSS, valid=DateRange(date(2020, 1, 1), date(2026, 1, 1)))
    follower = replace(OSS, registration_id="next", valid=DateRange(date(2026, 1, 1)))

    check_registration(follower, (SEAT, ended), BOOK)


@pytest.mark.parametrize(
    ("registration", "field"),
    [
        (replace(OSS, registration_id="twice"), "registration.start_date"),
        (a_registration("DE", established=True), "registration.established"),
        (a_registration("US", "CA", registration_id="again"), "registration.start_date"),
        (a_registration("CH", scheme=RegistrationScheme.UNION_OSS), "registration.country"),
        (replace(OSS, established=True), "registration.established"),
        (a_registration("XK", scheme=RegistrationScheme.UNION_OSS), "registration.country"),
    ],
)
def test_what_contradicts_another_is_refused(registration: Registration, field: str) -> None:
    """One clear error names the field."""
    with pytest.raises(InvalidInput) as caught:
        check_registration(registration, OTHERS, BOOK)

    assert [violation.field for violation in caught.value.violations] == [field]

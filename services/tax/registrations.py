"""What a registration of the seller must be, beside the others that it has.

It refuses two of the same scheme and place on the same day, and a second seat.
"""

from collections.abc import Iterable

from kit.errors import InvalidInput
from services.tax.model import Registration, RegistrationScheme
from services.tax.rulebook import Regime, Rulebook

_EU_SCHEMES = frozenset(
    {
        RegistrationScheme.UNION_OSS,
        RegistrationScheme.NON_UNION_OSS,
        RegistrationScheme.EU_BELOW_THRESHOLD,
    }
)
_SCHEMES_FROM_ABROAD = frozenset({RegistrationScheme.NON_UNION_OSS, RegistrationScheme.SIMPLIFIED})


def check_registration(
    registration: Registration, others: Iterable[Registration], book: Rulebook
) -> None:
    """Make sure that a registration can be put beside the seller's others.

    Raises:
        InvalidInput: naming the field that contradicts another registration or the scheme.
    """
    countries = book.countries.get(registration.country, ())
    if registration.scheme in _EU_SCHEMES and not any(
        country.regime is Regime.EU_VAT for country in countries
    ):
        raise InvalidInput.of(
            "registration.country", f"must be a member state of the EU for {registration.scheme}"
        )
    if registration.established and registration.scheme in _SCHEMES_FROM_ABROAD:
        raise InvalidInput.of(
            "registration.established", f"must be false for {registration.scheme}"
        )
    for other in others:
        if other.registration_id == registration.registration_id:
            continue
        if not other.valid.overlaps(registration.valid):
            continue
        if _key(other) == _key(registration):
            raise InvalidInput.of(
                "registration.start_date",
                f"overlaps {other.registration_id} of the same scheme, country and region",
            )
        if other.established and registration.established:
            raise InvalidInput.of(
                "registration.established",
                f"must be false, since {other.registration_id} says so on the same days",
            )


def _key(registration: Registration) -> tuple[RegistrationScheme, str, str]:
    return registration.scheme, registration.country, registration.region

"""Settled money, and the one function that rounds.

An amount is a `Decimal` until it is settled, and integer minor units from then on. Refuses
to mix currencies, to round without a named mode, and units that are no money, such as gold (XAU).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import (
    ROUND_CEILING,
    ROUND_DOWN,
    ROUND_FLOOR,
    ROUND_HALF_EVEN,
    ROUND_HALF_UP,
    ROUND_UP,
    Context,
    Decimal,
)
from enum import StrEnum
from fractions import Fraction
from itertools import islice
from math import lcm
from types import MappingProxyType

from kit.errors import InvalidInput

MINOR_UNITS_MAX = 2**63 - 1

# ISO 4217:2015, list one, amendment 179 (2025). CLDR's digits differ for a dozen
# currencies, since it counts the coins in use; invoices follow ISO.
_CODES_BY_DIGITS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: """
        AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD
        CAD CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP
        GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK
        LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO
        NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS
        SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST
        XAD XCD XCG YER ZAR ZMW ZWG
    """,
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
# Withdrawn since 2022, but documents and exchange rates of their time still name them.
_WITHDRAWN_CODES_BY_DIGITS = {2: "ANG BGN CUC HRK SLL ZWL"}

_MINOR_DIGITS = MappingProxyType(
    {
        code: digits
        for codes_by_digits in (_CODES_BY_DIGITS, _WITHDRAWN_CODES_BY_DIGITS)
        for digits, codes in codes_by_digits.items()
        for code in codes.split()
    }
)
_SETTLING_DIGITS = 40
_MINOR_UNITS = MappingProxyType(
    {digits: Decimal(1).scaleb(-digits) for digits in set(_MINOR_DIGITS.values())}
)
_LONGEST = len(str(MINOR_UNITS_MAX))


class Rounding(StrEnum):
    """How `settle` decides; each value is the constant of `decimal` with the same meaning."""

    HALF_UP = ROUND_HALF_UP
    HALF_EVEN = ROUND_HALF_EVEN
    UP = ROUND_UP
    DOWN = ROUND_DOWN
    CEILING = ROUND_CEILING
    FLOOR = ROUND_FLOOR


_SETTLING = MappingProxyType(
    {rounding: Context(prec=_SETTLING_DIGITS, rounding=rounding.value) for rounding in Rounding}
)


def minor_digits(currency: str) -> int:
    """Answer how many decimals the currency has by ISO 4217: 2 for EUR, 0 for JPY, 3 for KWD.

    Raises:
        InvalidInput: the code is no currency of ISO 4217.
    """
    digits = _MINOR_DIGITS.get(currency)
    if digits is None:
        raise InvalidInput.of("currency", "must be a currency of ISO 4217, such as EUR")
    return digits


@dataclass(frozen=True, slots=True)
class Money:
    """A settled amount: `Money("EUR", 1999)` is €19.99. Never more than a 64-bit integer."""

    currency: str
    minor_units: int

    def __post_init__(self) -> None:
        minor_digits(self.currency)
        if type(self.minor_units) is not int:
            raise TypeError("minor units are whole numbers")
        if abs(self.minor_units) > MINOR_UNITS_MAX:
            raise InvalidInput.of("amount", f"is too large for {self.currency}")

    @classmethod
    def zero(cls, currency: str) -> "Money":
        """Make the amount of nothing, the start of a sum."""
        return cls(currency, 0)

    def __add__(self, other: "Money") -> "Money":
        self._check_same_currency(other)
        return Money(self.currency, self.minor_units + other.minor_units)

    def __sub__(self, other: "Money") -> "Money":
        self._check_same_currency(other)
        return Money(self.currency, self.minor_units - other.minor_units)

    def __neg__(self) -> "Money":
        return Money(self.currency, -self.minor_units)

    def to_decimal(self) -> Decimal:
        """Answer the amount in major units: `Decimal("19.99")`."""
        sign, digits, _ = Decimal(self.minor_units).as_tuple()
        return Decimal((sign, digits, -minor_digits(self.currency)))

    def allocate(self, weights: Sequence[int | Decimal]) -> tuple["Money", ...]:
        """Split in proportion to the weights, losing no unit.

        By largest remainder (Hamilton): each part gets the whole units of its exact share; the
        units left go one each to the largest remainders, at a tie to the part that comes first.
        A negative amount splits as its opposite does.

        Raises:
            ValueError: a weight is negative, or nothing has a weight and there is an amount.
        """
        shares = _whole_weights(weights)
        total = sum(shares)
        if self.minor_units and not total:
            raise ValueError("an amount cannot be allocated over nothing")
        divided = [divmod(abs(self.minor_units) * share, total or 1) for share in shares]
        units = [quotient for quotient, _ in divided]
        left = abs(self.minor_units) - sum(units)
        by_remainder = sorted(range(len(divided)), key=lambda index: -divided[index][1])
        for index in islice(by_remainder, left):
            units[index] += 1
        assert sum(units) == abs(self.minor_units), "allocation loses no unit"
        sign = -1 if self.minor_units < 0 else 1
        return tuple(Money(self.currency, sign * part) for part in units)

    def _check_same_currency(self, other: "Money") -> None:
        if self.currency != other.currency:
            raise InvalidInput.of(
                "currency", f"{other.currency} cannot be combined with {self.currency}"
            )


def settle(amount: Decimal, currency: str, rounding: Rounding) -> Money:
    """Round an amount in major units to the currency's minor units, in the named mode.

    Raises:
        InvalidInput: the currency is unknown, or the result exceeds 64 bits of minor units.
        ValueError: the amount is NaN or infinite.
    """
    if not amount.is_finite():
        raise ValueError("only finite amounts can be settled")
    digits = minor_digits(currency)
    if amount and amount.adjusted() + digits > _LONGEST:
        raise InvalidInput.of("amount", f"is too large for {currency}")
    context = _SETTLING[rounding]
    settled = amount.quantize(_MINOR_UNITS[digits], context=context)
    return Money(currency, int(settled.scaleb(digits, context=context)))


def _whole_weights(weights: Sequence[int | Decimal]) -> list[int]:
    fractions = [Fraction(weight) for weight in weights]
    if any(fraction < 0 for fraction in fractions):
        raise ValueError("weights are never negative")
    scale = lcm(*(fraction.denominator for fraction in fractions))
    return [int(fraction * scale) for fraction in fractions]

"""Checks tax ids by format and checksum, for the countries whose rules need them.

It asks no authority, so the best it can say is that the format is valid. It never decides what
follows from that.
"""

import re
from collections.abc import Callable

from stdnum.au import abn
from stdnum.ca import bn
from stdnum.ch import vat as ch_vat
from stdnum.eu import vat as eu_vat
from stdnum.exceptions import (
    InvalidChecksum,
    InvalidComponent,
    InvalidFormat,
    InvalidLength,
    ValidationError,
)
from stdnum.gb import vat as gb_vat
from stdnum.in_ import gstin
from stdnum.jp import cn as jp_corporate_number
from stdnum.no import mva
from stdnum.nz import ird
from stdnum.sg import uen

from services.tax.model import CheckedTaxId, TaxId, TaxIdStatus

_SEPARATORS = re.compile(r"[\s./-]+")
_PROBLEMS: tuple[tuple[type[ValidationError], str], ...] = (
    (InvalidChecksum, "the checksum is wrong"),
    (InvalidLength, "the length is wrong"),
    (InvalidFormat, "the format is wrong"),
    (InvalidComponent, "a part of the number is not possible"),
)
_UNREADABLE = "the format is wrong"
# What VAT writes instead of the country's code of ISO 3166.
_PREFIXES = {"GR": ("EL", "GR"), "GB": ("GB", "XI")}


def check_tax_id(tax_id: TaxId) -> CheckedTaxId:
    """Check a tax id; the country is a code of ISO 3166."""
    check = _CHECKS.get(tax_id.country)
    if check is None:
        return CheckedTaxId(tax_id.country, TaxIdStatus.NOT_CHECKED)
    number = _SEPARATORS.sub("", tax_id.number).upper()
    try:
        canonical = check(number)
    except ValidationError as error:
        problem = next((text for kind, text in _PROBLEMS if isinstance(error, kind)), _UNREADABLE)
        return CheckedTaxId(tax_id.country, TaxIdStatus.INVALID, problem=problem)
    return CheckedTaxId(tax_id.country, TaxIdStatus.FORMAT_VALID, canonical)


def _european(country: str) -> Callable[[str], str]:
    prefixes = _PREFIXES.get(country, (country,))

    def check(number: str) -> str:
        bare = _without(number, prefixes)
        return prefixes[0] + _without(eu_vat.validate(prefixes[0] + bare), prefixes)

    return check


def _unprefixed(country: str, validate: Callable[[str], str]) -> Callable[[str], str]:
    """Check numbers that are written without the country, and admit them with it."""

    def check(number: str) -> str:
        return validate(_without(number, (country,)))

    return check


def _british(number: str) -> str:
    return "GB" + gb_vat.validate(_without(number, _PREFIXES["GB"]))


def _norwegian(number: str) -> str:
    return "NO" + _without(mva.validate(number), ("NO",))


def _japanese(number: str) -> str:
    return "T" + jp_corporate_number.validate(_without(number, ("T",)))


def _without(number: str, prefixes: tuple[str, ...]) -> str:
    for prefix in prefixes:
        if number.startswith(prefix):
            return number.removeprefix(prefix)
    return number


MEMBER_STATES = sorted(code.upper() for code in eu_vat.MEMBER_STATES if code != "xi")
_CHECKS: dict[str, Callable[[str], str]] = {
    **{country: _european(country) for country in MEMBER_STATES},
    "AU": _unprefixed("AU", abn.validate),
    "CA": _unprefixed("CA", bn.validate),
    "CH": ch_vat.validate,
    "GB": _british,
    "IN": _unprefixed("IN", gstin.validate),
    "JP": _japanese,
    "NO": _norwegian,
    "NZ": _unprefixed("NZ", ird.validate),
    "SG": _unprefixed("SG", uen.validate),
}

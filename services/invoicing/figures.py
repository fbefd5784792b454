"""Exact numbers, money and dates as people of a language write them.

Every digit of a number is kept; what would run off the page ends with an ellipsis, so that a cut
is seen. Babel gives the signs, the names and the order; it does not format numbers here, since it
would round long ones to the digits of the decimal context.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache

from babel import Locale
from babel.dates import format_date

from kit.decimals import plain
from kit.money import Money, minor_digits
from services.invoicing.glyphs import unshown
from services.invoicing.model import Language

_DECIMALS_SHOWN_MAX = 8
_GROUP_DIGITS = 3
_NO_BREAK_SPACE = "\u00a0"
_SIGN = "¤"
_YEN = "¥"
_FULL_WIDTH_YEN = "\uffe5"


@dataclass(frozen=True, slots=True)
class Figures:
    """How one language, as written in the buyer's country, writes numbers, money and dates."""

    locale: Locale

    def number(
        self,
        value: Decimal,
        *,
        decimals_min: int = 0,
        decimals_max: int = _DECIMALS_SHOWN_MAX,
    ) -> str:
        """Write a number with every digit; beyond `decimals_max` an ellipsis stands for the rest.

        `decimals_min` fills up with zeros.
        """
        sign, digits = ("-", plain(value)[1:]) if value < 0 else ("", plain(value))
        whole, _, decimals = digits.partition(".")
        rest = "…" if len(decimals) > decimals_max else ""
        decimals = decimals[:decimals_max].ljust(decimals_min, "0")
        point = self._symbol("decimal") if decimals else ""
        return f"{sign}{self._group(whole)}{point}{decimals}{rest}"

    def amount(self, money: Money) -> str:
        """Write a settled amount without its currency."""
        return self.number(money.to_decimal(), decimals_min=minor_digits(money.currency))

    def money(self, money: Money) -> str:
        """Write a settled amount with the sign of its currency."""
        sign = self._currency_sign(money.currency)
        amount = self.amount(money)
        if not self.locale.currency_formats["standard"].pattern.startswith(_SIGN):
            return f"{amount}{_NO_BREAK_SPACE}{sign}"
        gap = _NO_BREAK_SPACE if sign[-1].isalpha() else ""
        minus, amount = ("-", amount[1:]) if amount.startswith("-") else ("", amount)
        return f"{minus}{sign}{gap}{amount}"

    def percent(self, rate: Decimal) -> str:
        """Write a rate that is given in percent."""
        gap = self.locale.percent_formats[None].pattern.removeprefix("#,##0").removesuffix("%")
        return f"{self.number(rate)}{gap}%"

    def day(self, day: date) -> str:
        """Write a day, the month by its name."""
        return format_date(day, "long", locale=self.locale)

    def country(self, code: str) -> str:
        """Name a country."""
        return str(self.locale.territories.get(code, code))

    def _currency_sign(self, currency: str) -> str:
        sign = str(self.locale.currency_symbols.get(currency, currency))
        return currency if unshown(sign) else sign.replace(_FULL_WIDTH_YEN, _YEN)

    def _group(self, digits: str) -> str:
        first = len(digits) % _GROUP_DIGITS or _GROUP_DIGITS
        rest = range(first, len(digits), _GROUP_DIGITS)
        groups = [digits[:first], *(digits[at : at + _GROUP_DIGITS] for at in rest)]
        return self._symbol("group").join(groups)

    def _symbol(self, name: str) -> str:
        return str(self.locale.number_symbols["latn"][name])


@cache
def figures_of(language: Language, country: str) -> Figures:
    """Answer how a language is written in a country; English outside of the US is international."""
    if language is Language.ENGLISH:
        return Figures(Locale.parse("en_US" if country == "US" else "en_001"))
    return Figures(Locale.parse(language.value))

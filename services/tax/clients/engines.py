"""Tax engines outside, that determine in place of the tables where a seller asks for that.

An engine answers a supply in our own values within a time limit. One that does not answer, or whose
amounts do not add up, raises `EngineUnavailable`; what it cannot determine is TAX_UNDETERMINED.
"""

import urllib.parse
from collections.abc import Mapping
from decimal import Decimal
from http import HTTPStatus
from typing import Any, Protocol

from kit.decimals import parse_decimal
from kit.errors import InvalidInput
from kit.money import Money
from services.tax.clients.web import NoAnswer, send
from services.tax.engine_answers import EngineLine, EngineTax
from services.tax.model import BuyerKind, PriceKind, ProductCategory, Supply, Treatment
from services.tax.rulebook import undetermined

_TAX_CODES = {
    ProductCategory.ELECTRONIC_SERVICE: "txcd_10103001",
    ProductCategory.PROFESSIONAL_SERVICE: "txcd_20030000",
    ProductCategory.GOODS: "txcd_99999999",
    ProductCategory.EXEMPT: "txcd_00000000",
}
_TREATMENTS = {
    "standard_rated": Treatment.TAXED,
    "reduced_rated": Treatment.TAXED,
    "portion_standard_rated": Treatment.TAXED,
    "portion_reduced_rated": Treatment.TAXED,
    "proportionally_rated": Treatment.TAXED,
    "reverse_charge": Treatment.REVERSE_CHARGE,
    "not_collecting": Treatment.NOT_REGISTERED,
    "customer_exempt": Treatment.NOT_TAXABLE,
    "product_exempt": Treatment.NOT_TAXABLE,
    "product_exempt_holiday": Treatment.NOT_TAXABLE,
    "portion_product_exempt": Treatment.NOT_TAXABLE,
    "zero_rated": Treatment.NOT_TAXABLE,
    "taxable_basis_reduced": Treatment.NOT_TAXABLE,
    "not_subject_to_tax": Treatment.OUT_OF_SCOPE,
    "excluded_territory": Treatment.OUT_OF_SCOPE,
}


class EngineUnavailable(Exception):
    """The engine gave no answer that can be used; the message says why."""


class Engine(Protocol):
    """Something outside that determines taxes."""

    @property
    def name(self) -> str:
        """What it is called in answers."""
        ...

    async def determine(self, supply: Supply) -> tuple[EngineLine, ...]:
        """Answer the taxes of each line of a supply, in order.

        Raises:
            EngineUnavailable: there was no answer that can be used.
            Precondition: TAX_UNDETERMINED, the engine does not cover the place.
        """
        ...


class StripeTax:
    """Stripe Tax: `POST <url>/v1/tax/calculations`, form in and JSON out.

    Stripe documents it at https://docs.stripe.com/api/tax/calculations. The registrations are
    those that the seller keeps there.
    """

    name = "Stripe Tax"

    def __init__(self, url: str, secret_key: str, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._secret_key = secret_key
        self._timeout_s = timeout_s

    async def determine(self, supply: Supply) -> tuple[EngineLine, ...]:
        """Ask for the calculation of a supply."""
        try:
            status, answer = await send(
                f"{self._url}/v1/tax/calculations",
                timeout_s=self._timeout_s,
                headers={
                    "Authorization": f"Bearer {self._secret_key}",
                    "Content-Type": "application/x-www-form-urlencoded",
                },
                body=urllib.parse.urlencode(_form(supply)).encode(),
            )
        except NoAnswer as error:
            raise EngineUnavailable(str(error)) from error
        if status != HTTPStatus.OK:
            fault = answer.get("error")
            code = fault.get("code") if isinstance(fault, dict) else None
            raise EngineUnavailable(f"{self.name} says {code or status}")
        try:
            return _read_lines(supply, answer)
        except (AttributeError, InvalidInput, KeyError, TypeError, ValueError) as error:
            raise EngineUnavailable(f"{self.name} answers what cannot be read") from error


def _form(supply: Supply) -> dict[str, str]:
    address = supply.buyer.address
    details = "customer_details"
    form = {
        "currency": supply.lines[0].amount.currency.lower(),
        "tax_date": str(_seconds(supply)),
        f"{details}[address][country]": address.country,
        f"{details}[address][state]": address.region,
        f"{details}[address][postal_code]": address.postal_code,
        f"{details}[address_source]": "billing",
        "expand[]": "line_items.data.tax_breakdown",
    }
    if supply.buyer.kind is BuyerKind.BUSINESS:
        for index, tax_id in enumerate(each for each in supply.buyer.tax_ids if each.canonical):
            kind = "gb_vat" if tax_id.country == "GB" else "eu_vat"
            form[f"{details}[tax_ids][{index}][type]"] = kind
            form[f"{details}[tax_ids][{index}][value]"] = tax_id.canonical
    inclusive = supply.prices is PriceKind.TAX_INCLUSIVE
    for index, line in enumerate(supply.lines):
        item = f"line_items[{index}]"
        form[f"{item}[reference]"] = line.line_id
        form[f"{item}[amount]"] = str(line.amount.minor_units)
        form[f"{item}[tax_behavior]"] = "inclusive" if inclusive else "exclusive"
        form[f"{item}[tax_code]"] = _TAX_CODES[line.category]
    return form


def _seconds(supply: Supply) -> int:
    """Count the seconds from 1970 to noon of the supply date, UTC."""
    return (supply.day.toordinal() - _EPOCH_ORDINAL) * 86_400 + 43_200


_EPOCH_ORDINAL = 719_163


def _read_lines(supply: Supply, answer: Mapping[str, Any]) -> tuple[EngineLine, ...]:
    items = {item["reference"]: item for item in answer["line_items"]["data"]}
    return tuple(
        _read_line(line.line_id, line.amount.currency, items[line.line_id], str(answer["id"]))
        for line in supply.lines
    )


def _read_line(
    line_id: str, currency: str, item: Mapping[str, Any], calculation: str
) -> EngineLine:
    taxes = tuple(_read_tax(currency, each, calculation) for each in item["tax_breakdown"])
    return EngineLine(line_id, taxes, Money(currency, item["amount_tax"]))


def _read_tax(currency: str, breakdown: Mapping[str, Any], calculation: str) -> EngineTax:
    place, details = breakdown["jurisdiction"], breakdown.get("tax_rate_details") or {}
    country, state, reason = place["country"], place.get("state"), breakdown["taxability_reason"]
    if reason not in _TREATMENTS:
        raise undetermined(country, f"rules of Stripe Tax: {reason}")
    treatment = _TREATMENTS[reason]
    percent = parse_decimal(str(details.get("percentage_decimal") or "0"), "percentage_decimal")
    return EngineTax(
        jurisdiction=f"{country}-{state}" if state else country,
        name=details.get("display_name") or "Tax",
        treatment=treatment,
        rate_percent=percent if treatment is Treatment.TAXED else Decimal(0),
        taxable_amount=Money(currency, breakdown["taxable_amount"]),
        tax_amount=Money(currency, breakdown["amount"]),
        finding=reason,
        calculation=calculation,
    )

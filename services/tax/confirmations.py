"""What a register's answer makes of a tax id, and what is worth an id that none has confirmed.

A confirmation of the last 30 days counts. It refuses ids that the register does not know, and,
where the seller asks for that, those that no register has confirmed.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta

from services.tax.model import Buyer, CheckedTaxId, Confirmation, SellerSettings, TaxIdStatus
from services.tax.tax_ids import MEMBER_STATES

CONFIRMED_FOR = timedelta(days=30)
COUNTRIES = frozenset({*MEMBER_STATES, "GB"})
"""Where a register can be asked."""

Confirmations = Mapping[str, Confirmation]


def judge(tax_id: CheckedTaxId, confirmation: Confirmation | None) -> CheckedTaxId:
    """Answer what is known of an id after a register was asked; without an answer, the same."""
    if confirmation is None or tax_id.status is not TaxIdStatus.FORMAT_VALID:
        return tax_id
    if confirmation.is_valid:
        return replace(tax_id, status=TaxIdStatus.CONFIRMED, confirmation=confirmation)
    day = f"{confirmation.check_time:%Y-%m-%d}"
    return replace(
        tax_id,
        status=TaxIdStatus.INVALID,
        canonical="",
        problem=f"{confirmation.register} did not know it on {day}",
        confirmation=confirmation,
    )


def numbers_to_look_up(buyer: Buyer) -> set[str]:
    """Name the ids of a buyer that a register may have confirmed."""
    return {
        tax_id.canonical
        for tax_id in buyer.tax_ids
        if tax_id.country in COUNTRIES and tax_id.status is TaxIdStatus.FORMAT_VALID
    }


def confirm_buyer(
    buyer: Buyer, confirmations: Confirmations, settings: SellerSettings, today: date
) -> Buyer:
    """Answer a buyer whose ids are worth what the registers and the seller say."""
    if not numbers_to_look_up(buyer):
        return buyer
    judged = tuple(
        _worth(tax_id, confirmations.get(tax_id.canonical), settings, today)
        for tax_id in buyer.tax_ids
    )
    return replace(buyer, tax_ids=judged)


def _worth(
    tax_id: CheckedTaxId, found: Confirmation | None, settings: SellerSettings, today: date
) -> CheckedTaxId:
    is_recent = found is not None and found.check_time.date() >= today - CONFIRMED_FOR
    judged = judge(tax_id, found if is_recent else None)
    is_unconfirmed = judged.status is TaxIdStatus.FORMAT_VALID and tax_id.country in COUNTRIES
    if not (is_unconfirmed and settings.refuses_unconfirmed_tax_ids):
        return judged
    return replace(
        tax_id,
        status=TaxIdStatus.INVALID,
        canonical="",
        problem="no register has confirmed it, and the seller asks for that",
    )

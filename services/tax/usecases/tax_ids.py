"""Tax ids: checked by format and checksum, and confirmed by the registers of the authorities."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kit.postgres import Database
from kit.telemetry import traced
from services.tax import store
from services.tax.clients.registers import Register, RegisterUnavailable
from services.tax.confirmations import judge
from services.tax.model import CheckedTaxId, Registration, RegistrationScheme, TaxId, TaxIdStatus
from services.tax.tax_ids import check_tax_id

_KEPT_FOR = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Validation:
    """What is known of a tax id, and why it is not confirmed, where it was to be."""

    checked: CheckedTaxId
    unconfirmed_reason: str = ""


class TaxIdUseCases:
    """The use cases over one database and the registers that are set up."""

    def __init__(self, database: Database, registers: Sequence[Register]) -> None:
        self._database = database
        self._registers = registers

    @traced("tax.validate_tax_id")
    async def validate(
        self, tenant: str, tax_id: TaxId, *, confirm: bool, now: datetime
    ) -> Validation:
        """Check a tax id and, where asked to, have it confirmed; the answer is kept as proof.

        A register that is not set up or does not answer leaves the id unconfirmed, with a reason.
        """
        checked = check_tax_id(tax_id)
        if not confirm or checked.status is not TaxIdStatus.FORMAT_VALID:
            return Validation(checked)
        register = next((each for each in self._registers if each.covers(checked.country)), None)
        if register is None:
            return Validation(checked, f"no register is set up for {checked.country}")
        number = checked.canonical
        async with self._database.transaction(tenant) as transaction:
            kept = (await store.load_confirmations(transaction, tenant, {number})).get(number)
            loaded = await store.load_registrations(transaction, tenant)
        if kept is not None and now - _KEPT_FOR < kept.check_time:
            return Validation(judge(checked, kept))
        requester = _requester([registration for registration, _ in loaded], register, now)
        try:
            confirmation = await register.ask(number, requester)
        except RegisterUnavailable as error:
            return Validation(checked, str(error))
        async with self._database.transaction(tenant) as transaction:
            await store.save_confirmation(transaction, tenant, number, confirmation)
        return Validation(judge(checked, confirmation))


def _requester(registrations: Sequence[Registration], register: Register, now: datetime) -> str:
    """Find the seller's own number in the register's area, by which it gives a proof."""
    return next(
        (
            each.number
            for each in registrations
            if each.scheme is RegistrationScheme.DOMESTIC
            and now.date() in each.valid
            and register.covers(each.country)
        ),
        "",
    )

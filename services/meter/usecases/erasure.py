"""Erases what tells a customer's people apart; usage stays what it was."""

from collections.abc import Callable

from kit.idempotency import Answer, Once
from kit.postgres import Database
from kit.telemetry import traced
from services.meter.store.erasing import erase_customer
from services.meter.store.meters import lock_for_meters

Erased = tuple[int, int]
"""How many events were changed, and how many rejected ones deleted."""


class Erasure:
    """The use case of erasing; `make_salt` answers what nobody can guess."""

    def __init__(self, database: Database, make_salt: Callable[[], str]) -> None:
        self._database = database
        self._make_salt = make_salt

    @traced("meter.erase_customer")
    async def erase_customer(
        self, tenant: str, customer_id: str, once: Once[Erased, Answer]
    ) -> Answer:
        """Put pseudonyms in the place of a customer's users, keys and runs.

        Nobody stores events meanwhile, so that rollups and events change together.

        Raises:
            Conflict: REQUEST_ID_REUSED.
        """
        async with self._database.transaction(tenant) as transaction:

            async def erase() -> Erased:
                await lock_for_meters(transaction)
                return await erase_customer(transaction, tenant, customer_id, self._make_salt())

            return await once.run(transaction, tenant, erase)

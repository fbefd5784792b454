"""Taxes by the engine outside that a seller uses, and by the tables where it gives no answer."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from kit.errors import DomainError, InvalidInput, Unavailable
from services.tax.clients.engines import Engine, EngineUnavailable
from services.tax.determination import determine
from services.tax.engine_answers import adopt
from services.tax.model import Determination, Seller, SellerSettings, Supply
from services.tax.rulebook import Rulebook

_CALLS_AT_ONCE_MAX = 8
_RETRY_AFTER = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one supply, who determined it, and why the tables did where they did."""

    outcome: Determination | DomainError
    engine: str = ""
    fallback_reason: str = ""


def attempt(seller: Seller, supply: Supply, book: Rulebook) -> Determination | DomainError:
    """Determine by the tables; an error is an answer."""
    try:
        return determine(seller, supply, book)
    except DomainError as error:
        return error


class EngineUseCases:
    """The use cases over the engine that is set up, if any."""

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine

    async def determine_each(
        self, seller: Seller, supplies: Sequence[Supply], book: Rulebook, settings: SellerSettings
    ) -> list[Finding]:
        """Determine many supplies by the engine, some at once; each fails by itself."""
        turns = asyncio.Semaphore(_CALLS_AT_ONCE_MAX)

        async def in_turn(supply: Supply) -> Finding:
            async with turns:
                return await self._determine(seller, supply, book, settings)

        return await asyncio.gather(*map(in_turn, supplies))

    async def _determine(
        self, seller: Seller, supply: Supply, book: Rulebook, settings: SellerSettings
    ) -> Finding:
        try:
            return await self._ask(supply, book)
        except EngineUnavailable as error:
            reason = str(error)
        if settings.falls_back:
            return Finding(attempt(seller, supply, book), fallback_reason=reason)
        name = self._engine.name if self._engine else ""
        return Finding(
            Unavailable(
                "TAX_ENGINE_UNAVAILABLE",
                f"the tax engine gives no answer, and the seller allows no other: {reason}",
                metadata={"engine": name},
                retry_after=_RETRY_AFTER,
            )
        )

    async def _ask(self, supply: Supply, book: Rulebook) -> Finding:
        if self._engine is None:
            raise EngineUnavailable("no tax engine is set up")
        name = self._engine.name
        try:
            lines = await self._engine.determine(supply)
            return Finding(adopt(supply, lines, book, name), engine=name)
        except InvalidInput as error:
            raise EngineUnavailable(f"{name} answers what does not add up") from error
        except DomainError as error:
            return Finding(error, engine=name)

"""Plans, prices and usage with defaults, so that a test shows only what matters to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from kit.decimals import exactly
from kit.interval import Interval
from services.rating.model import (
    UNKNOWN_CONTRACT,
    Contract,
    GivenUsage,
    Plan,
    PlanVersion,
    Price,
    ProductCategory,
    Proration,
    Rating,
    Usage,
    UsageEntry,
)
from services.rating.pipeline import Terms, rate_period, spans_of
from services.rating.prices import (
    GraduatedPrice,
    PackagePrice,
    PriceModel,
    StandardPrice,
    Tier,
)
from services.rating.selection import count_given

JANUARY = Interval(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))


def a_standard_price(amount: str = "0.02", per: str = "1") -> StandardPrice:
    """Make a price of `amount` for `per` units."""
    return StandardPrice(Decimal(amount), Decimal(per))


def a_graduated_price(*tiers: tuple[str | None, str, str]) -> GraduatedPrice:
    """Make a graduated price; a tier is `(up to, unit amount, flat amount)`."""
    return GraduatedPrice(
        tuple(
            Tier(None if up_to is None else Decimal(up_to), Decimal(unit), Decimal(flat))
            for up_to, unit, flat in tiers
        )
    )


def a_package_price(amount: str = "25", size: str = "10") -> PackagePrice:
    """Make a price of `amount` for each started package of `size` units."""
    return PackagePrice(Decimal(amount), Decimal(size))


def a_price(
    model: PriceModel | None = None,
    /,
    *,
    price_id: str = "tokens",
    meter_id: str = "tokens",
    included: str = "0",
    **dimensions: str,
) -> Price:
    """Make a price; other keyword arguments are its dimensions."""
    return Price(
        price_id=price_id,
        display_name=price_id.capitalize(),
        meter_id=meter_id,
        dimensions=tuple(sorted(dimensions.items())),
        included_quantity=Decimal(included),
        model=model or a_standard_price(),
        category=ProductCategory.ELECTRONIC_SERVICE,
    )


def a_plan(
    *prices: Price,
    plan_id: str = "pro",
    currency: str = "USD",
    base_fee: str = "0",
    effective_time: datetime | None = None,
) -> Plan:
    """Make a plan of the prices."""
    return Plan(
        plan_id=plan_id,
        display_name=plan_id.capitalize(),
        currency=currency,
        base_fee=Decimal(base_fee),
        prices=prices,
        effective_time=effective_time,
        category=ProductCategory.ELECTRONIC_SERVICE,
    )


def a_version(plan: Plan, version: int = 1) -> PlanVersion:
    """Make a stored version of a plan."""
    return PlanVersion(plan, version, JANUARY.start)


def rated(plan: Plan, *quantities: str | Decimal, proration: Proration | None = None) -> Rating:
    """Rate January by a plan; one quantity for each of its prices, in order."""
    usages = [Usage((UsageEntry(Decimal(quantity)),), "unit") for quantity in quantities]
    return rate_period(a_version(plan), Terms("acme", JANUARY, proration), usages)


def rated_price(model: PriceModel, quantity: str | Decimal, included: str = "0") -> Rating:
    """Rate January by a plan of nothing but one price."""
    return rated(a_plan(a_price(model, included=included)), quantity)


def a_given_usage(
    quantity: str,
    /,
    *,
    meter_id: str = "tokens",
    time: datetime | None = None,
    quantities: Mapping[str, str] | None = None,
    **dimensions: str,
) -> GivenUsage:
    """Make an event that the caller gives; other keyword arguments are its dimensions."""
    named = {name: Decimal(text) for name, text in (quantities or {}).items()}
    return GivenUsage(
        meter_id, UsageEntry(Decimal(quantity), dimensions, time=time, quantities=named)
    )


def rated_given(
    plan: Plan,
    *given: GivenUsage,
    period: Interval = JANUARY,
    proration: Proration | None = None,
    contract: Contract = UNKNOWN_CONTRACT,
    as_of: datetime | None = None,
    previous: tuple[Interval, ...] = (),
) -> Rating:
    """Rate a period, by default January, by a plan and usage that is given."""
    terms = Terms("acme", period, proration, contract, as_of, previous)
    usages = count_given(plan, given, spans_of(plan, terms))
    return rate_period(a_version(plan), terms, usages)


def a_contract(
    start: datetime | None, time_zone: str = "UTC", billed_before: str = "0"
) -> Contract:
    """Make what is known of a contract."""
    return Contract(start, ZoneInfo(time_zone), Decimal(billed_before))


def quantities_of(plan: Plan, given: Sequence[GivenUsage]) -> list[Decimal]:
    """Tell how much each price of a plan counts."""
    with exactly():
        return [
            sum((entry.quantity for entry in usage.entries), Decimal(0))
            for usage in count_given(plan, given, spans_of(plan, Terms("acme", JANUARY)))
        ]

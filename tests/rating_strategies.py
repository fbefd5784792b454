"""Plans of every kind, drawn for tests: whatever the contract allows may come out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC
from decimal import Decimal
from operator import itemgetter
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from services.rating.model import (
    BaseFee,
    Commitment,
    CommitmentStep,
    Discounts,
    LimitEnforcement,
    LimitLevel,
    LimitWindow,
    Plan,
    PlanLimit,
    Price,
    ProductCategory,
    Trial,
)
from services.rating.prices import (
    ContextTier,
    ContextTierPrice,
    CostPlusPrice,
    DynamicPrice,
    GraduatedPercentagePrice,
    GraduatedPrice,
    MatrixPrice,
    MatrixRow,
    PackagePrice,
    PercentagePrice,
    PercentageTier,
    PriceModel,
    QuantityConversion,
    QuantityRounding,
    Recurrence,
    Rollover,
    Stair,
    StairstepPrice,
    StandardPrice,
    Tier,
    TierSpan,
    TimeOfUsePrice,
    TimeWindow,
    VirtualCurrency,
    VolumePrice,
)

ids = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,20}", fullmatch=True)
names = st.text(st.characters(categories=("L", "N", "P")), max_size=20)
amounts = st.integers(0, 10**20).map(lambda value: Decimal(f"{value}E-10"))
quantities = st.integers(1, 10**20).map(lambda value: Decimal(f"{value}E-6"))
categories = st.sampled_from(ProductCategory)
instants = st.datetimes(timezones=st.just(UTC))


percents = st.integers(0, 10**15).map(lambda value: Decimal(f"{value}E-12"))
filters = st.dictionaries(ids, ids, max_size=3).map(lambda each: tuple(sorted(each.items())))


@st.composite
def tiers(draw: st.DrawFn, *parts: st.SearchStrategy[Any]) -> tuple[tuple[Any, ...], ...]:
    """Draw bounds that ascend to none, each with its amounts."""
    bounds = [*sorted(draw(st.sets(quantities, max_size=4))), None]
    return tuple((bound, *map(draw, parts)) for bound in bounds)


@st.composite
def percentages(draw: st.DrawFn) -> PercentagePrice:
    """Draw a percentage, perhaps with allowances and bounds."""
    lowest, highest = sorted([draw(amounts), draw(amounts)])
    return PercentagePrice(
        draw(percents),
        draw(amounts),
        draw(st.none() | st.integers(1, 1000)),
        draw(st.none() | quantities),
        draw(st.none() | st.just(lowest)),
        draw(st.none() | st.just(highest)),
    )


windows = st.builds(
    TimeWindow,
    st.frozensets(st.integers(0, 6), min_size=1),
    st.integers(0, 23),
    st.integers(0, 24),
    amounts,
)
rows = st.lists(st.tuples(filters.filter(bool), amounts), max_size=4, unique_by=itemgetter(0)).map(
    lambda drawn: tuple(MatrixRow(*each) for each in [*drawn, ((), Decimal(7))])
)
graduated_prices = tiers(amounts, amounts).map(
    lambda drawn: GraduatedPrice(tuple(Tier(*each) for each in drawn))
)
graduated_percentages = tiers(percents, amounts).map(
    lambda drawn: GraduatedPercentagePrice(tuple(PercentageTier(*each) for each in drawn))
)
models = st.one_of(
    st.builds(StandardPrice, amounts, quantities),
    st.builds(PackagePrice, amounts, quantities),
    graduated_prices,
    tiers(amounts, amounts).map(lambda drawn: VolumePrice(tuple(Tier(*each) for each in drawn))),
    tiers(amounts).map(lambda drawn: StairstepPrice(tuple(Stair(*each) for each in drawn))),
    graduated_percentages,
    percentages(),
    st.builds(DynamicPrice, ids),
    st.builds(CostPlusPrice, ids, percents),
    st.builds(MatrixPrice, rows, quantities),
    st.builds(
        ContextTierPrice,
        ids,
        tiers(amounts).map(lambda drawn: tuple(ContextTier(*each) for each in drawn)),
        quantities,
    ),
    st.builds(
        TimeOfUsePrice,
        st.sampled_from([ZoneInfo("UTC"), ZoneInfo("Asia/Kolkata")]),
        st.lists(windows, min_size=1, max_size=3).map(tuple),
        amounts,
        quantities,
    ),
)
conversions = st.one_of(
    st.builds(QuantityConversion, quantities.filter(lambda each: each >= 1), st.none(), st.just(0)),
    st.builds(
        QuantityConversion,
        st.just(Decimal(1024)),
        st.sampled_from(QuantityRounding),
        st.integers(-12, 12),
    ),
)
credit_currencies = st.builds(
    VirtualCurrency,
    st.sampled_from(["CRD", "TOKENS"]),
    st.integers(1, 10**16).map(lambda value: Decimal(f"{value}E-12")),
    st.none() | st.integers(0, 12),
)


discounts = st.builds(Discounts, quantities, st.integers(0, 100).map(Decimal), amounts)
base_fees = st.builds(BaseFee, ids, names, amounts, quantities, categories, st.booleans())
commitments = st.builds(
    Commitment,
    st.lists(amounts, min_size=1, max_size=3).map(
        lambda drawn: tuple(CommitmentStep(3 * n, amount) for n, amount in enumerate(drawn))
    ),
    st.integers(0, 120),
)


quanta = st.integers(0, 10**15)
windows_of_limits = st.sampled_from(
    [each for each in LimitWindow if each not in {LimitWindow.ROLLING, LimitWindow.CONCURRENCY}]
)
limits = st.one_of(
    st.builds(
        PlanLimit,
        ids,
        names,
        st.sampled_from(LimitLevel),
        filters,
        st.just(("input_tokens", "output_tokens")),
        quanta,
        windows_of_limits,
        quanta,
        st.sampled_from(LimitEnforcement),
    ),
    st.builds(
        PlanLimit,
        ids,
        names,
        st.sampled_from(LimitLevel),
        filters,
        st.just(("requests",)),
        quanta,
        st.just(LimitWindow.ROLLING),
        st.just(0),
        st.sampled_from(LimitEnforcement),
        rolling_ms=st.integers(1000, 10**9),
        burst=quanta,
    ),
)


NOTHING_ELSE = {
    "minimum_amount": None,
    "maximum_amount": None,
    "discounts": None,
    "conversion": None,
    "included_quantity": Decimal(0),
}


def timings_of(model: PriceModel) -> st.SearchStrategy[dict[str, Any]]:
    """Draw when the usage of a price counts, and what cannot stand beside it."""
    timings: list[dict[str, Any]] = [{}]
    if isinstance(model, StandardPrice | GraduatedPrice | PercentagePrice):
        timings.append({"in_advance": True, **NOTHING_ELSE})
    if isinstance(model, StandardPrice | GraduatedPrice | VolumePrice):
        removal = (("operation", "remove"),)
        timings += [
            {"recurrence": Recurrence(prorated=True, removal=removal), **NOTHING_ELSE},
            {"recurrence": Recurrence(prorated=True, removal=(), sets_level=True), **NOTHING_ELSE},
            {
                "recurrence": Recurrence(prorated=True, removal=removal, identity="project"),
                **NOTHING_ELSE,
            },
        ]
    if isinstance(model, GraduatedPrice | VolumePrice | GraduatedPercentagePrice):
        timings.append({"tier_span": TierSpan.CONTRACT, **NOTHING_ELSE})
        timings.append({"tier_span": TierSpan.LIFETIME, **NOTHING_ELSE})
    if isinstance(model, GraduatedPrice | StairstepPrice):
        timings.append({"free_without_usage": True})
    if isinstance(model, PackagePrice | StairstepPrice):
        timings.append({"rollover": Rollover(3, Decimal(7)), "included_quantity": Decimal(5)})
        timings.append({"recurrence": Recurrence(prorated=False, removal=())})
    return st.sampled_from(timings)


@st.composite
def a_drawn_price(draw: st.DrawFn, price_id: str, index: int) -> Price:
    """Draw a price that no price of another index meets."""
    model = draw(models)
    timing = draw(timings_of(model))
    is_plain = isinstance(model, StandardPrice | GraduatedPrice | StairstepPrice | PackagePrice)
    is_charged_percentage = timing.get("in_advance") and isinstance(model, PercentagePrice)
    has_own_allowance = isinstance(model, PercentagePrice | DynamicPrice | CostPlusPrice)
    drawn = Price(
        price_id=price_id,
        display_name=draw(names),
        meter_id=draw(ids),
        dimensions=(("model", f"model-{index}"), ("region", "eu")),
        included_quantity=Decimal(0) if has_own_allowance else draw(quantities),
        model=model,
        category=draw(categories),
        group_by=draw(st.sampled_from([(), ("project",), ("user", "project")])),
        conversion=draw(conversions) if is_plain and draw(st.booleans()) else None,
        virtual_currency=None if is_charged_percentage else draw(st.none() | credit_currencies),
        minimum_amount=draw(st.none() | st.just(Decimal("0.5"))),
        maximum_amount=draw(st.none() | st.just(Decimal("0.5"))),
        discounts=draw(st.none() | discounts) if not has_own_allowance else None,
    )
    return replace(drawn, **timing)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw a plan whose prices each want another model."""
    price_ids = draw(st.lists(ids, max_size=4, unique=True))
    return Plan(
        plan_id=draw(ids),
        display_name=draw(names),
        currency=draw(st.sampled_from(["EUR", "JPY", "KWD"])),
        base_fee=draw(amounts),
        prices=tuple(draw(a_drawn_price(each, index)) for index, each in enumerate(price_ids)),
        effective_time=draw(st.none() | instants),
        category=draw(categories),
        base_fees=tuple(
            draw(
                st.lists(
                    base_fees.filter(lambda fee: fee.fee_id not in price_ids),
                    max_size=2,
                    unique_by=lambda fee: fee.fee_id,
                )
            )
        ),
        commitment=draw(st.none() | commitments),
        trial=draw(st.none() | st.builds(Trial, st.integers(1, 1000), st.booleans())),
        keeps_contracts=draw(st.booleans()),
        limits=tuple(
            draw(st.lists(limits, max_size=2, unique_by=lambda limit: limit.limit_id)),
        ),
    )

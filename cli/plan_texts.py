"""Prices in words, one line for each, for people who look at a plan."""

from collections.abc import Callable, Iterable, Mapping

from google.type.dayofweek_pb2 import DayOfWeek

from cli.output import quantity_text
from kit.decimals import parse_decimal
from tollkeeper.api.quota.v1.quota_pb2 import CalendarPeriod
from tollkeeper.api.rating.v1 import plan_pb2

_Bounded = plan_pb2.Tier | plan_pb2.PercentageTier | plan_pb2.Stair | plan_pb2.ContextTier


def price_text(price: plan_pb2.Price) -> str:
    """Say what a price is, whatever its kind."""
    kind = price.WhichOneof("model")
    return "" if kind is None else _TEXTS[kind](getattr(price, kind))


def meter_text(price: plan_pb2.Price) -> str:
    """Say which usage a price counts."""
    filters = _values(price.dimensions)
    return f"{price.meter_id} ({filters})" if filters else price.meter_id


def window_text(limit: plan_pb2.PlanLimit) -> str:
    """Say in which window a limit counts."""
    match limit.WhichOneof("window"):
        case "calendar_period":
            word = CalendarPeriod.Name(limit.calendar_period).removeprefix("CALENDAR_PERIOD_")
            return f"each {word.lower()}"
        case "rolling":
            return f"each {limit.rolling.period.ToTimedelta().total_seconds():g} s, refilling"
        case "billing_period":
            return "each billing period"
        case "lifetime":
            return "once"
        case _:
            return "at the same time"


def amount_text(text: str) -> str:
    """Write a number for people; no text is 0."""
    return quantity_text(parse_decimal(text or "0", "amount"))


def _values(dimensions: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(dimensions.items()))


def _per(amount: str, per: str) -> str:
    return f"{amount_text(amount)} per {amount_text(per or '1')}"


def _bounded(parts: Iterable[tuple[_Bounded, str]]) -> str:
    """Write tiers of any kind: to where each goes, and what it costs."""
    return "; ".join(
        f"up to {amount_text(tier.up_to.value)}: {text}"
        if tier.HasField("up_to")
        else f"then: {text}"
        for tier, text in parts
    )


def _flat(text: str) -> str:
    return f" + {amount_text(text)}" if text not in {"", "0"} else ""


def _tiers(price: plan_pb2.GraduatedPrice) -> str:
    return _bounded(
        (each, f"{amount_text(each.unit_amount.value)} each{_flat(each.flat_amount.value)}")
        for each in price.tiers
    )


def _volume(price: plan_pb2.VolumePrice) -> str:
    return "all units, " + _bounded(
        (each, f"{amount_text(each.unit_amount.value)} each{_flat(each.flat_amount.value)}")
        for each in price.tiers
    )


def _stairs(price: plan_pb2.StairstepPrice) -> str:
    return _bounded((each, f"{amount_text(each.amount.value)} in all") for each in price.stairs)


def _percentages(price: plan_pb2.GraduatedPercentagePrice) -> str:
    return _bounded(
        (each, f"{amount_text(each.rate_percent.value)} %{_flat(each.flat_amount.value)}")
        for each in price.tiers
    )


def _percentage(price: plan_pb2.PercentagePrice) -> str:
    text = f"{amount_text(price.rate_percent.value)} %"
    if _flat(price.fixed_amount.value):
        text += f"{_flat(price.fixed_amount.value)} of each event"
    if price.HasField("minimum_amount"):
        text += f", at least {amount_text(price.minimum_amount.value)}"
    if price.HasField("maximum_amount"):
        text += f", at most {amount_text(price.maximum_amount.value)}"
    if price.free_events:
        text += f", {price.free_events:,} events free"
    if price.HasField("free_quantity"):
        text += f", {amount_text(price.free_quantity.value)} free"
    return text


def _matrix(price: plan_pb2.MatrixPrice) -> str:
    per = price.per_quantity.value
    return "; ".join(
        f"{_values(row.dimensions) or 'other'}: {_per(row.amount.value, per)}" for row in price.rows
    )


def _contexts(price: plan_pb2.ContextTierPrice) -> str:
    per = price.per_quantity.value
    tiers = _bounded((each, _per(each.amount.value, per)) for each in price.tiers)
    return f"calls of {price.context_quantity} {tiers}"


def _hours(price: plan_pb2.TimeOfUsePrice) -> str:
    per = price.per_quantity.value
    texts = []
    for window in price.windows:
        days = ", ".join(DayOfWeek.Name(day).lower() for day in window.weekdays) or "every day"
        texts.append(
            f"{days} {window.start_hour:02}:00 to {window.end_hour:02}:00:"
            f" {_per(window.amount.value, per)}"
        )
    texts.append(f"other hours: {_per(price.other_amount.value, per)}")
    return "; ".join(texts)


_TEXTS: Mapping[str, Callable[..., str]] = {
    "standard": lambda price: _per(price.amount.value, price.per_quantity.value),
    "package": lambda price: (
        f"{amount_text(price.amount.value)} per begun {amount_text(price.package_size.value)}"
    ),
    "graduated": _tiers,
    "volume": _volume,
    "stairstep": _stairs,
    "graduated_percentage": _percentages,
    "percentage": _percentage,
    "dynamic": lambda price: f"what {price.amount_meter_id} adds up",
    "cost_plus": lambda price: (
        f"what {price.cost_meter_id} adds up + {amount_text(price.markup_percent.value)} %"
    ),
    "matrix": _matrix,
    "context_tiers": _contexts,
    "time_of_use": _hours,
}

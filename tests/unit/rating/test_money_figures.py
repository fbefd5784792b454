"""The figures of docs/money.md: each convention of rating comes to what the document says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from kit.interval import Interval
from services.rating.model import (
    UNKNOWN_CONTRACT,
    Commitment,
    CommitmentStep,
    Contract,
    Discounts,
    GivenUsage,
    Plan,
    Price,
    Proration,
    RatedLine,
)
from services.rating.prices import (
    ContextTier,
    ContextTierPrice,
    CostPlusPrice,
    DynamicPrice,
    GraduatedPercentagePrice,
    MatrixPrice,
    MatrixRow,
    PercentagePrice,
    PercentageTier,
    QuantityConversion,
    QuantityRounding,
    Recurrence,
    Rollover,
    Stair,
    StairstepPrice,
    TierSpan,
    TimeOfUsePrice,
    TimeWindow,
    VirtualCurrency,
    VolumePrice,
)
from tests.rating_builders import (
    JANUARY,
    a_contract,
    a_given_usage,
    a_graduated_price,
    a_package_price,
    a_plan,
    a_price,
    a_standard_price,
    rated_given,
)

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/money.md"
REMOVED = (("operation", "remove"),)
HALF = Proration(17, 31)
EACH = a_standard_price("1")


def on(day: int, hour: int = 0, *, month: int = 1, year: int = 2026) -> datetime:
    """Name a time, by default of January 2026."""
    return datetime(year, month, day, hour, tzinfo=UTC)


def figures() -> dict[str, str]:
    """Read the figure of each step from the table of the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text.split("| step | rule | figure |\n| --- | --- | --- |\n")[1].split("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {row[0]: row[-1] for row in rows}


@dataclass(frozen=True, slots=True)
class Worked:
    """A plan and usage; the texts that stand in the document are what its lines come to.

    Each text is the unrounded amount of a line, or the quantity of a step that it names by number;
    one that ends in dots is cut.
    """

    plan: Plan
    usage: Sequence[GivenUsage] = ()
    amounts: tuple[str, ...] = ()
    quantities: Mapping[int, str] | None = None
    rounded: str = ""
    proration: Proration | None = None
    contract: Contract = UNKNOWN_CONTRACT
    period: Interval = JANUARY
    previous: tuple[Interval, ...] = ()

    def rate(self) -> tuple[RatedLine, ...]:
        """Rate the period."""
        return rated_given(
            self.plan,
            *self.usage,
            period=self.period,
            proration=self.proration,
            contract=self.contract,
            previous=self.previous,
        ).lines


def of(price: Price) -> Plan:
    """Make a plan of one price."""
    return a_plan(price)


def used(*quantities: str, model: str = "", kind: str = "") -> tuple[GivenUsage, ...]:
    """Make events of January, one after the other."""
    return tuple(
        a_given_usage(each, time=on(2 + index), model=model, kind=kind)
        for index, each in enumerate(quantities)
    )


def a_percentage(rate: str, fixed: str, **bounds: str) -> PercentagePrice:
    """Make a percentage with a fixed amount."""
    price = PercentagePrice(Decimal(rate), Decimal(fixed), None, None, None, None)
    for name, text in bounds.items():
        price = replace(price, **{name: Decimal(text)})  # type: ignore[arg-type]  # by name.
    return price


MILLION = Decimal(10**6)
VOLUME = VolumePrice(
    a_graduated_price(("100", "2", "0"), ("200", "1", "0"), (None, "0.5", "50")).tiers
)
NIGHTS = TimeOfUsePrice(
    ZoneInfo("UTC"), (TimeWindow(frozenset(range(5)), 22, 6, Decimal(1)),), Decimal(3), Decimal(1)
)
MATRIX = MatrixPrice(
    (
        MatrixRow((("model", "large"),), Decimal(8)),
        MatrixRow((("kind", "output"),), Decimal(4)),
        MatrixRow((("kind", "output"), ("model", "large")), Decimal(20)),
        MatrixRow((), Decimal(9)),
    ),
    MILLION,
)
SEATS = (
    a_given_usage("3", time=on(9, month=12, year=2025)),
    a_given_usage("4", time=on(17)),
    a_given_usage("1", time=on(30), operation="remove"),
)
LEVEL = Recurrence(prorated=True, removal=REMOVED)
TEN_DAYS = Interval(on(1), on(11))
DECEMBER = Interval(on(1, month=12, year=2025), on(1))
NOVEMBER = Interval(on(1, month=11, year=2025), on(1, month=12, year=2025))
CREDITS = VirtualCurrency("CRD", Decimal("0.5"), None)
TOKENS = a_price(a_standard_price("0.02", "1000"), included="1000000")

WORKED: Mapping[str, Sequence[Worked]] = {
    "conversion": [
        Worked(
            of(
                replace(
                    a_price(EACH),
                    conversion=QuantityConversion(Decimal(3600), QuantityRounding.UP, 0),
                )
            ),
            used("3601"),
            ("2",),
        )
    ],
    "included": [Worked(of(TOKENS), used("1234567"), quantities={1: "234,567"})],
    "standard": [Worked(of(TOKENS), used("1234567"), ("4.69134",))],
    "graduated": [
        Worked(
            of(a_price(a_graduated_price(("1000", "1", "0"), ("10000", "1", "0"),
                                         (None, "1", "0")))),
            used("12345.5"), quantities={0: "1,000", 1: "9,000", 2: "2,345.5"},
        )
    ],
    "flat amounts": [
        Worked(of(a_price(a_graduated_price(("1", "0", "2"), (None, "0", "3")))), (), ("2",))
    ],
    "volume": [Worked(of(a_price(VOLUME)), used("300"), ("200",))],
    "stairstep": [
        Worked(
            of(a_price(StairstepPrice((Stair(Decimal(5), Decimal(10)), Stair(None, Decimal(15)))))),
            used("5.1"), ("15",),
        )
    ],
    "graduated percentage": [
        Worked(
            of(
                a_price(
                    GraduatedPercentagePrice(
                        (
                            PercentageTier(Decimal(10), Decimal(1), Decimal(200)),
                            PercentageTier(None, Decimal(2), Decimal(300)),
                        )
                    )
                )
            ),
            used("11"),
            ("500.12",),
        )
    ],
    "package": [Worked(of(a_price(a_package_price("1", "10"))), used("20.5"), ("3",))],
    "percentage": [
        Worked(
            of(a_price(a_percentage("2.99", "2", minimum_amount="1.75", maximum_amount="12"))),
            used("10", "80", "10000"),
            ("18.691",),
        )
    ],
    "percentage with free allowances": [
        Worked(
            of(a_price(replace(a_percentage("1.3", "2", free_quantity="250"), free_events=3))),
            used("50", "100", "250", "400"),
            ("11.15",),
        )
    ],
    "dynamic": [
        Worked(
            of(a_price(DynamicPrice("amounts"))),
            (*used("20"), a_given_usage("0.402", meter_id="amounts")),
            ("0.402",),
        )
    ],
    "cost plus": [
        Worked(
            of(a_price(CostPlusPrice("costs", Decimal("12.5")))),
            (*used("1"), a_given_usage("0.80", meter_id="costs")),
            ("0.90",),
        )
    ],
    "matrix": [
        Worked(of(a_price(MATRIX)), used("1000000", model="large", kind="output"), ("20",))
    ],
    "context tiers": [
        Worked(
            of(
                a_price(
                    ContextTierPrice(
                        "input_tokens",
                        (
                            ContextTier(Decimal(200000), Decimal("1.25")),
                            ContextTier(None, Decimal("2.50")),
                        ),
                        MILLION,
                    )
                )
            ),
            (a_given_usage("200001", quantities={"input_tokens": "200001"}),),
            ("0.5000025",),
        )
    ],
    # Saturday the 3rd and Monday the 5th of January, at one o'clock: 1 within the window, else 3.
    "time of use": [
        Worked(of(a_price(NIGHTS)), (a_given_usage("1", time=on(3, 1)),), ("1",)),
        Worked(of(a_price(NIGHTS)), (a_given_usage("1", time=on(5, 1)),), ("3",)),
    ],
    "included, of parts": [
        Worked(
            of(
                a_price(
                    MatrixPrice((MatrixRow((), Decimal("4.5")),), MILLION), included="500000"
                )
            ),
            used("2000000"),
            ("6.75",),
        )
    ],
    "rollover": [
        Worked(
            of(replace(a_price(EACH, included="10"), rollover=Rollover(1, None))),
            (
                a_given_usage("7", time=on(9, month=11, year=2025)),
                a_given_usage("2", time=on(9, month=12, year=2025)),
                a_given_usage("99", time=on(9)),
            ),
            quantities={0: "10", 1: "10"},
            previous=(NOVEMBER, DECEMBER),
        )
    ],
    "a level, prorated": [
        Worked(of(replace(a_price(EACH), recurrence=LEVEL)), SEATS, ("4.903…",))
    ],
    "a level that is set, prorated": [
        Worked(
            of(replace(a_price(EACH), recurrence=Recurrence(prorated=True, removal=(),
                                                           sets_level=True))),
            (a_given_usage("100", time=on(9, month=12, year=2025)),
             a_given_usage("10", time=on(10))),
            ("91",), period=TEN_DAYS,
        )
    ],
    # Of the four, two lie above the tier to 5: 31 a unit below it and 62 above.
    "a level in tiers, prorated": [
        Worked(
            of(
                replace(
                    a_price(a_graduated_price(("5", "31", "0"), (None, "62", "0"))),
                    recurrence=LEVEL,
                )
            ),
            SEATS[:2],
            (str(3 * 31 + 2 * 15 + 2 * 2 * 15),),
        )
    ],
    "in advance": [
        Worked(
            of(
                replace(
                    a_price(a_graduated_price(("10", "2", "7"), (None, "1", "5"))), in_advance=True
                )
            ),
            used("6", "12"),
            ("40",),
        )
    ],
    "tiers over a contract or a lifetime": [
        Worked(
            of(
                replace(
                    a_price(a_graduated_price(("10", "2", "0"), (None, "1", "0"))),
                    tier_span=TierSpan.CONTRACT,
                )
            ),
            (
                a_given_usage("8", time=on(9, month=12, year=2025)),
                a_given_usage("5", time=on(9)),
            ),
            (str(2 * 2 + 3 * 1),),
            contract=a_contract(on(1, month=12, year=2025)),
        )
    ],
    "which price": [
        Worked(
            a_plan(
                a_price(a_standard_price("3"), price_id="large", model="large"),
                a_price(a_standard_price("2"), price_id="others"),
            ),
            (*used("100", model="large"), *used("50", model="small")), ("300", "100"),
        )
    ],
    "virtual credits": [
        Worked(
            of(replace(a_price(a_standard_price("0.555")), virtual_currency=CREDITS)),
            used("3"),
            ("0.8325",),
        ),
        Worked(
            of(
                replace(
                    a_price(a_standard_price("0.555")),
                    virtual_currency=replace(CREDITS, decimals=2),
                )
            ),
            used("3"),
            ("0.835",),
        ),
    ],
    "usage discount": [
        Worked(
            of(
                replace(
                    a_price(a_graduated_price(("10", "2", "0"), (None, "5", "0"))),
                    discounts=Discounts(Decimal(3), Decimal(0), Decimal(0)),
                )
            ),
            used("12"),
            ("18",),
        )
    ],
    "percentage and fixed discount": [
        Worked(
            of(
                replace(a_price(EACH), discounts=Discounts(Decimal(0), Decimal(25), Decimal(3)))
            ),
            used("20"),
            ("12",),
        )
    ],
    "maximum": [
        Worked(
            of(replace(a_price(EACH), maximum_amount=Decimal(20))),
            used("99"), rounded="10.97", proration=HALF,
        )
    ],
    "minimum": [
        Worked(
            of(replace(a_price(EACH), minimum_amount=Decimal(200))),
            used("60"), ("60.00", "49.677…"), rounded="49.68", proration=HALF,
        )
    ],
    "commitment": [
        Worked(
            replace(
                a_plan(base_fee="1000"),
                commitment=Commitment((CommitmentStep(0, Decimal(10_000)),), 0),
            ),
            (), rounded="8,235.61", proration=Proration(334, 365),
        )
    ],
    "commitment over a term": [
        Worked(
            replace(
                a_plan(base_fee="100"),
                commitment=Commitment((CommitmentStep(0, Decimal(1000)),), 12),
            ),
            (),
            ("100", "200"),
            contract=a_contract(on(1, month=2, year=2025), billed_before="700"),
        )
    ],
    "base fee": [Worked(a_plan(base_fee="100"), (), ("54.8387…",), proration=HALF)],
    "the line": [
        Worked(of(TOKENS), used("1234567"), rounded="4.69"),
        Worked(a_plan(a_price(a_standard_price("150.5")), currency="JPY"), used("1"),
               rounded="151"),
    ],
    "the total": [
        Worked(a_plan(a_price(a_standard_price("0.005"), price_id=each)), used("1"),
               rounded="0.01")
        for each in ("a", "b")
    ],
}  # fmt: skip


def matches(text: str, value: Decimal) -> bool:
    """Tell whether a text of the document is a value, or the beginning of it."""
    plain = text.replace(",", "")
    if plain.endswith("…"):
        return f"{value:f}".startswith(plain[:-1])
    return Decimal(plain) == value


@pytest.mark.parametrize("step", WORKED)
def test_a_convention_comes_to_the_figure_of_the_document(step: str) -> None:
    """What the document works out by hand is what the core computes; both name the same figure."""
    figure = figures()[step]
    for worked in WORKED[step]:
        lines = worked.rate()
        pairs = list(zip(worked.amounts, (line.unrounded_amount for line in lines), strict=False))
        pairs += [
            (text, lines[0].steps[index].quantity)
            for index, text in (worked.quantities or {}).items()
        ]
        if worked.rounded:
            pairs.append((worked.rounded, lines[-1].amount.to_decimal()))
        assert pairs
        assert [text for text, value in pairs if not matches(text, value)] == []
        assert [text for text, _ in pairs if text not in figure] == []


def test_every_convention_of_the_document_is_worked_out() -> None:
    """A row that is added to the table needs its figure here."""
    assert figures().keys() == WORKED.keys()

"""Rating's converters: what is written comes back, and every bad field is named, all at once."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from google.protobuf.text_format import Merge, Parse
from hypothesis import given

from kit.errors import InvalidInput
from kit.interval import Interval
from services.rating.convert.plans import parse_get_plan, parse_plan, render_plan
from services.rating.convert.ratings import parse_batch_rate, parse_rate, render_rating
from services.rating.documents import read_document, write_document
from services.rating.model import (
    NO_OVERRIDES,
    UNKNOWN_CONTRACT,
    Contract,
    GivenUsage,
    PeriodToRate,
    Plan,
    PlanVersion,
    Price,
    ProductCategory,
    Proration,
    UsageEntry,
)
from services.rating.prices import (
    PriceModel,
)
from tests.rating_builders import (
    JANUARY,
    a_graduated_price,
    a_plan,
    a_price,
    a_standard_price,
    rated,
)
from tests.rating_strategies import plans
from tests.refusals import Bad, refusal_of
from tollkeeper.api.rating.v1 import plan_pb2, rating_pb2, rating_service_pb2

NOW = datetime(2026, 3, 1, 12, 30, 0, 123456, tzinfo=UTC)


@given(plan=plans())
def test_a_plan_comes_back_from_its_document(plan: Plan) -> None:
    """What is stored as JSON is read as the same prices, to the last digit."""
    stored = json.loads(json.dumps(write_document(plan.prices)))

    assert tuple(read_document(Price, each) for each in stored) == plan.prices


def test_a_document_of_the_first_version_stays_readable() -> None:
    """A price that was stored before there were more kinds reads as it did."""
    document = {
        "price_id": "tokens",
        "display_name": "Tokens",
        "meter_id": "tokens",
        "dimensions": {"model": "large"},
        "included_quantity": "1000000",
        "model": {"kind": "standard", "amount": "0.02", "per_quantity": "1000"},
        "category": "ELECTRONIC_SERVICE",
    }

    assert read_document(Price, document) == a_price(
        a_standard_price("0.02", per="1000"), included="1000000", model="large"
    )


def test_a_document_of_an_unknown_kind_is_refused() -> None:
    """A version that a newer service stored is not guessed at."""
    with pytest.raises(ValueError, match="unknown kind 'auction'"):
        read_document(PriceModel, {"kind": "auction"})


@given(plan=plans())
def test_a_plan_comes_back_from_the_wire(plan: Plan) -> None:
    """What is rendered is read as the same plan, once what the service sets is taken away."""
    message = render_plan(PlanVersion(plan, 7, NOW))
    assert (message.version, message.create_time.ToDatetime(UTC)) == (7, NOW)

    message.ClearField("version")
    message.ClearField("create_time")

    assert parse_plan(message, "plan") == plan


def test_absent_fields_mean_what_the_contract_says() -> None:
    """No fee and no allowance are zero, no quantity is one, no category is electronic service."""
    message = Parse(
        """
        plan_id: "pro" currency: "USD"
        prices { price_id: "a" meter_id: "a" standard { amount { value: "2" } } }
        prices { price_id: "b" meter_id: "b" graduated { tiers {} } }
        """,
        plan_pb2.Plan(),
    )

    assert parse_plan(message, "plan") == Plan(
        plan_id="pro",
        display_name="",
        currency="USD",
        base_fee=Decimal(0),
        prices=(
            Price(
                price_id="a",
                display_name="",
                meter_id="a",
                dimensions=(),
                included_quantity=Decimal(0),
                model=a_standard_price("2"),
                category=ProductCategory.ELECTRONIC_SERVICE,
            ),
            Price(
                price_id="b",
                display_name="",
                meter_id="b",
                dimensions=(),
                included_quantity=Decimal(0),
                model=a_graduated_price((None, "0", "0")),
                category=ProductCategory.ELECTRONIC_SERVICE,
            ),
        ),
        effective_time=None,
        category=ProductCategory.ELECTRONIC_SERVICE,
    )


def test_a_rating_is_written_with_every_digit() -> None:
    """Lines, steps, usage and totals stand on the wire as they were computed."""
    plan = a_plan(a_price(a_standard_price("2.5", per="3600"), gpu="h100"), base_fee="100")

    message = render_rating(rated(plan, "1000", proration=Proration(1, 3)))

    expected = """
        plan_id: "pro" plan_version: 1 currency: "USD"
        lines {
          kind: LINE_KIND_BASE_FEE description: "Pro: base fee" unit: "period"
          quantity { value: "0.333333333333333333333333" }
          unrounded_amount { value: "33.333333333333333333333333" }
          amount { currency_code: "USD" units: 33 nanos: 330000000 }
          steps {
            description: "base fee: 1 of 3 days"
            quantity { value: "0.333333333333333333333333" }
            unit_amount { value: "100" }
            amount { value: "33.333333333333333333333333" }
            stage: STAGE_PRICE
          }
          category: PRODUCT_CATEGORY_ELECTRONIC_SERVICE
          period { start_time { seconds: 1767225600 } end_time { seconds: 1769904000 } }
        }
        lines {
          kind: LINE_KIND_USAGE price_id: "tokens" description: "Tokens" unit: "unit"
          quantity { value: "1000" }
          unrounded_amount { value: "0.694444444444444444444444" }
          amount { currency_code: "USD" nanos: 690000000 }
          steps {
            description: "2.5 per 3600"
            quantity { value: "1000" }
            unit_amount { value: "0.000694444444444444444444" }
            amount { value: "0.694444444444444444444444" }
            stage: STAGE_PRICE
          }
          usage {
            meter_id: "tokens" customer_id: "acme"
            interval { start_time { seconds: 1767225600 } end_time { seconds: 1769904000 } }
            dimensions { key: "gpu" value: "h100" }
          }
          category: PRODUCT_CATEGORY_ELECTRONIC_SERVICE
          period { start_time { seconds: 1767225600 } end_time { seconds: 1769904000 } }
        }
        total { currency_code: "USD" units: 34 nanos: 20000000 }
    """
    assert message == Parse(expected, rating_pb2.Rating())


A_PERIOD = "start_time { seconds: 1767225600 } end_time { seconds: 1769904000 }"


def test_a_period_to_rate_is_read_in_full() -> None:
    """Customer, plan, version, period, proration and given usage arrive as values."""
    message = Parse(
        f"""
        customer_id: "Acme@eu:1" plan_id: "pro" plan_version: 3 period {{ {A_PERIOD} }}
        proration {{ billed_days: 17 period_days: 31 }}
        given_usage {{ quantities {{
          meter_id: "tokens" dimensions {{ key: "model" value: "large" }}
          quantity {{ value: "1.5" }} time {{ seconds: 1767225600 }}
          quantities {{ key: "input_tokens" value: "2.5" }}
        }} }}
        contract_start {{ seconds: 1767225600 }} time_zone: "Asia/Kolkata"
        billed_before {{ value: "9.5" }} as_of {{ seconds: 1769904000 }}
        previous_periods {{
          start_time {{ seconds: 1764547200 }} end_time {{ seconds: 1767225600 }}
        }}
        """,
        rating_service_pb2.RateRequest(),
    )

    assert parse_rate(message) == PeriodToRate(
        customer_id="Acme@eu:1",
        plan_id="pro",
        plan_version=3,
        period=JANUARY,
        proration=Proration(17, 31),
        contract=Contract(JANUARY.start, ZoneInfo("Asia/Kolkata"), Decimal("9.5")),
        as_of=JANUARY.end,
        previous_periods=(Interval(JANUARY.start - timedelta(days=31), JANUARY.start),),
        overrides=NO_OVERRIDES,
        given_usage=(
            GivenUsage(
                "tokens",
                UsageEntry(
                    Decimal("1.5"),
                    {"model": "large"},
                    time=JANUARY.start,
                    quantities={"input_tokens": Decimal("2.5")},
                ),
            ),
        ),
    )


def test_given_usage_of_nothing_is_not_the_meters_usage() -> None:
    """Given usage that is present and empty asks no meter; absent, it does."""
    message = Parse(
        f'customer_id: "acme" plan_id: "pro" period {{ {A_PERIOD} }}',
        rating_service_pb2.RateRequest(),
    )
    assert parse_rate(message).given_usage is None

    message.given_usage.SetInParent()

    assert parse_rate(message).given_usage == ()


DECIMAL = "must be a decimal number such as 12.5"
BAD_RATES = [
    Bad("no customer", 'customer_id: ""', ("customer_id: is required",)),
    Bad(
        "a customer with a space",
        'customer_id: "acme inc"',
        (("customer_id: must be 1 to 64 characters out of letters, digits and"
         " '_', '.', ':', '@', '-'"),),
    ),
    Bad("no plan", 'plan_id: ""', ("plan_id: is required",)),
    Bad("a negative version", "plan_version: -1", ("plan_version: must not be negative",)),
    Bad(
        "an end before the start",
        "period { end_time { seconds: 1767225599 } }",
        ("period: must start before it ends",),
    ),
    Bad(
        "a period of six years",
        "period { end_time { seconds: 1956528000 } }",
        ("period: must be at most 1830 days long",),
    ),
    Bad("no billed days", "proration { period_days: 31 }",
        ("proration.billed_days: must be at least 1",)),
    Bad("more billed than there are", "proration { billed_days: 32 period_days: 31 }",
        ("proration.period_days: must not be below billed_days",)),
    Bad("a proration of ten years", "proration { billed_days: 1 period_days: 3660 }",
        ("proration.period_days: must be at most 1830",)),
    Bad(
        "usage that is no number, or far too long a one",
        f"""
        given_usage {{
          quantities {{ meter_id: "tokens" quantity {{ value: "NaN" }} }}
          quantities {{ meter_id: "tokens" quantity {{ value: "{'9' * 40}" }} }}
          quantities {{ meter_id: "tokens" quantity {{ value: "100000000000000000001" }} }}
          quantities {{ meter_id: "tokens" quantity {{ value: "1" }}
                        dimensions {{ key: "model" value: "" }} }}
        }}
        """,
        (
            f"given_usage.quantities[0].quantity: {DECIMAL}",
            "given_usage.quantities[1].quantity: must have at most 38 digits",
            "given_usage.quantities[2].quantity: must be at most 100000000000000000000",
            "given_usage.quantities[3].dimensions.model: must have 1 to 128 characters",
        ),
    ),
    Bad(
        "negative, missing and unnamed usage",
        """
        given_usage {
          quantities { meter_id: "tokens" quantity { value: "-1" } }
          quantities { meter_id: "tokens" }
          quantities { quantity { value: "1e2" } }
        }
        """,
        (
            "given_usage.quantities[0].quantity: must be at least 0",
            "given_usage.quantities[1].quantity: a decimal number is required",
            "given_usage.quantities[2].meter_id: is required",
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_RATES, ids=lambda bad: bad.id)
def test_a_bad_period_is_refused_with_every_bad_field(bad: Bad) -> None:
    """Each bad field is named by its path, once, with what is wrong with it."""
    good = f'customer_id: "acme" plan_id: "pro" period {{ {A_PERIOD} }}'
    message = Merge(bad.written, Parse(good, rating_service_pb2.RateRequest()))

    assert refusal_of(parse_rate, message) == list(bad.named)


def test_a_period_without_bounds_is_refused() -> None:
    """Both bounds of the period are required."""
    message = rating_service_pb2.RateRequest(customer_id="acme", plan_id="pro")

    assert refusal_of(parse_rate, message) == [
        "period.start_time: is required",
        "period.end_time: is required",
    ]


def test_a_bad_item_of_a_batch_spoils_only_itself() -> None:
    """A batch is read item by item; what is wrong with one stands in its place."""
    good = Parse(
        f'customer_id: "acme" plan_id: "pro" period {{ {A_PERIOD} }}',
        rating_service_pb2.RateRequest(),
    )
    bad = rating_service_pb2.RateRequest()
    bad.CopyFrom(good)
    bad.plan_id = "!"

    first, second = parse_batch_rate(rating_service_pb2.BatchRateRequest(requests=[bad, good]))

    assert isinstance(first, InvalidInput)
    assert second == PeriodToRate(
        "acme", "pro", None, JANUARY, None, UNKNOWN_CONTRACT, None, (), NO_OVERRIDES, None
    )


@pytest.mark.parametrize(
    ("count", "reason", "metadata"),
    [(0, "INVALID_FIELD", {}), (1001, "PAYLOAD_TOO_LARGE", {"maximum": "1000"})],
)
def test_a_batch_holds_1_to_1000_requests(
    count: int, reason: str, metadata: dict[str, str]
) -> None:
    """An empty batch and one that is too large are refused whole."""
    request = rating_service_pb2.BatchRateRequest(
        requests=[rating_service_pb2.RateRequest()] * count
    )

    with pytest.raises(InvalidInput) as caught:
        parse_batch_rate(request)

    assert (caught.value.reason, caught.value.metadata) == (reason, metadata)


def test_more_given_usage_than_10000_is_refused() -> None:
    """The bound of given usage is told, and no entry is looked at."""
    request = rating_service_pb2.RateRequest(
        given_usage=rating_service_pb2.GivenUsage(
            quantities=[rating_service_pb2.UsageQuantity()] * 10_001
        )
    )

    with pytest.raises(InvalidInput) as caught:
        parse_rate(request)

    assert (caught.value.reason, caught.value.metadata) == (
        "PAYLOAD_TOO_LARGE",
        {"maximum": "10000"},
    )


def test_a_bad_question_for_a_plan_is_refused() -> None:
    """Both fields of the question are checked."""
    assert refusal_of(parse_get_plan, rating_service_pb2.GetPlanRequest(version=-1)) == [
        "plan_id: is required",
        "version: must not be negative",
    ]

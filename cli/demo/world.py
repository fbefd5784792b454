"""Who and what the demo is about: a seller, its registrations, four customers, and the meters.

Everything is invented but valid: tax ids have right checksums, and addresses decide real taxes.
"""

from dataclasses import dataclass
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date

from tollkeeper.api.invoicing.v1.customer_pb2 import (
    BILLING_ANCHOR_CALENDAR,
    CURRENCY_CONVERSION_ECB_REFERENCE_RATE,
    CURRENCY_CONVERSION_UNSPECIFIED,
    Customer,
    PostalAddress,
    Seller,
    Subscription,
)
from tollkeeper.api.tax.v1.tax_pb2 import (
    BUYER_KIND_BUSINESS,
    BUYER_KIND_CONSUMER,
    REGISTRATION_SCHEME_DOMESTIC,
    REGISTRATION_SCHEME_NON_UNION_OSS,
    Registration,
    TaxId,
)

GPU_TYPE = "gpu.session"
PLAN_FILES = tuple(
    Path(__file__).resolve().parents[2] / "docs" / "examples" / "plans" / name
    for name in ("pro.yaml", "starter.yaml")
)
PLAN_CURRENCY = "USD"


@dataclass(frozen=True, slots=True)
class DemoMeter:
    """A meter that the demo asks.

    Args:
        meter_id: The meter.
        title: What stands above its figures.
        quantity: The quantity that it adds up; `calls` where it counts the calls.
    """

    meter_id: str
    title: str
    quantity: str


# The last two come with the plans, the others are of `cli.call_meters`.
METERS = (
    DemoMeter("calls", "calls", "calls"),
    DemoMeter("input_tokens", "input tokens", "input_tokens"),
    DemoMeter("output_tokens", "output tokens", "output_tokens"),
    DemoMeter("llm_tokens", "tokens", "total_tokens"),
    DemoMeter("gpu_hours", "GPU hours", "gpu_hours"),
)

SELLER = Seller(
    legal_name="Northwind Inference, Inc.",
    address=PostalAddress(
        lines=["548 Market Street, Suite 200"],
        city="San Francisco",
        region="CA",
        postal_code="94104",
        country="US",
    ),
    email="billing@northwind-inference.example",
    payment_instructions="ACH or SWIFT to Example Bank, account 000123456789. "
    "Please quote the invoice number.",
    number_prefix="NWI",
    payment_term_days=14,
)
_REGISTERED_FROM = Date(year=2019, month=1, day=1)
REGISTRATIONS = (
    Registration(
        registration_id="us-ca",
        country="US",
        region="CA",
        scheme=REGISTRATION_SCHEME_DOMESTIC,
        number="103-455432",
        established=True,
        start_date=_REGISTERED_FROM,
    ),
    Registration(
        registration_id="eu-non-union-oss",
        country="IE",
        scheme=REGISTRATION_SCHEME_NON_UNION_OSS,
        number="EU372012345",
        start_date=_REGISTERED_FROM,
    ),
    Registration(
        registration_id="jp-jct",
        country="JP",
        scheme=REGISTRATION_SCHEME_DOMESTIC,
        number="T7000012050002",
        start_date=_REGISTERED_FROM,
    ),
)


@dataclass(frozen=True, slots=True)
class DemoCustomer:
    """A customer of the demo and how it uses AI.

    Args:
        customer: As invoicing knows it.
        plan_id: What it subscribes to.
        share: Its share of the calls, relative to the others.
        keys: Its API keys, each with the project that it belongs to.
        gpu_jobs: How many GPU jobs it runs in the month.
    """

    customer: Customer
    plan_id: str
    share: int
    keys: tuple[tuple[str, str], ...]
    gpu_jobs: int = 0

    @property
    def customer_id(self) -> str:
        """The id of the customer."""
        return self.customer.customer_id

    def subscription(self, start_time: Timestamp) -> Subscription:
        """Subscribe it from a time on."""
        is_foreign = self.customer.currency != PLAN_CURRENCY
        return Subscription(
            subscription_id=f"{self.customer_id}-{self.plan_id}",
            customer_id=self.customer_id,
            plan_id=self.plan_id,
            start_time=start_time,
            anchor=BILLING_ANCHOR_CALENDAR,
            currency_conversion=CURRENCY_CONVERSION_ECB_REFERENCE_RATE
            if is_foreign
            else CURRENCY_CONVERSION_UNSPECIFIED,
        )


GOLDEN_GATE = DemoCustomer(
    customer=Customer(
        customer_id="golden-gate",
        legal_name="Golden Gate Robotics LLC",
        email="ap@golden-gate-robotics.example",
        address=PostalAddress(
            lines=["1 Ferry Plaza"], city="Oakland", region="CA", postal_code="94607", country="US"
        ),
        kind=BUYER_KIND_BUSINESS,
        currency="USD",
        time_zone="America/Los_Angeles",
        language="en",
    ),
    plan_id="pro",
    share=40,
    keys=(("assistant", "gg-live"), ("assistant", "gg-intern"), ("search", "gg-search")),
)
ISAR = DemoCustomer(
    customer=Customer(
        customer_id="isar",
        legal_name="Isar Analytik GmbH",
        email="rechnung@isar-analytik.example",
        address=PostalAddress(
            lines=["Leopoldstraße 12"], city="München", postal_code="80802", country="DE"
        ),
        kind=BUYER_KIND_BUSINESS,
        tax_ids=[TaxId(country="DE", number="DE136695976")],
        currency="USD",
        time_zone="Europe/Berlin",
        language="de",
    ),
    plan_id="starter",
    share=25,
    keys=(("reports", "isar-reports"), ("nightly", "isar-nightly")),
    gpu_jobs=40,
)
MANON = DemoCustomer(
    customer=Customer(
        customer_id="manon",
        legal_name="Manon Lefèvre",
        email="manon@lefevre.example",
        address=PostalAddress(
            lines=["7 rue des Martyrs"], city="Paris", postal_code="75009", country="FR"
        ),
        kind=BUYER_KIND_CONSUMER,
        currency="USD",
        time_zone="Europe/Paris",
        language="fr",
    ),
    plan_id="starter",
    share=15,
    keys=(("novel", "manon-laptop"),),
    gpu_jobs=6,
)
HANAKO = DemoCustomer(
    customer=Customer(
        customer_id="hanako",
        legal_name="佐藤 花子",
        email="hanako@sato.example",
        address=PostalAddress(
            lines=["神南1-19-11"], city="東京都渋谷区", postal_code="150-0041", country="JP"
        ),
        kind=BUYER_KIND_CONSUMER,
        currency="JPY",
        time_zone="Asia/Tokyo",
        language="ja",
    ),
    plan_id="pro",
    share=20,
    keys=(("study", "hanako-phone"), ("study", "hanako-desktop")),
)
CUSTOMERS = (GOLDEN_GATE, ISAR, MANON, HANAKO)

"""`tollkeeper limits`: put limits, from options or a file, and look at them."""

from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, NamedTuple

import grpc
import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.type.date_pb2 import Date

from cli import limit_options as options
from cli.contract_files import parse_duration
from cli.embedded.data_directory import DEFAULT
from cli.errors import CommandError
from cli.limit_files import LimitFile, read_limit_file
from cli.options import AsJson, DataDir
from cli.output import Column, Output
from cli.services import CALL_TIMEOUT_S, Addresses, Services, new_request_id, run
from cli.times import parse_time_option
from tollkeeper.amounts import from_quanta, to_quanta
from tollkeeper.api.quota.v1.quota_pb2 import (
    BillingPeriodWindow,
    CalendarPeriod,
    CalendarWindow,
    Enforcement,
    Level,
    Limit,
    OutagePolicy,
    RollingRate,
)
from tollkeeper.api.quota.v1.quota_service_pb2 import (
    GetLimitRequest,
    ListLimitsRequest,
    PutLimitRequest,
    TopUpLimitRequest,
)
from tollkeeper.api.type.v1.subject_pb2 import Subject
from tollkeeper.errors import parse_rpc_error

app = typer.Typer(no_args_is_help=True, help="Put limits, and look at them.")

_LIMITS_PER_PAGE = 1000


@app.command()
def put(
    limit_id: options.LimitId = "",
    *,
    file: options.LimitsFile = None,
    level: options.Level = "customer",
    unit: options.Unit = None,
    capacity: options.Capacity = "",
    per: options.Per = "",
    time_zone: options.TimeZone = "",
    anchor: options.Anchor = "",
    months: options.Months = 1,
    rolling: options.Rolling = "",
    burst: options.Burst = "",
    lifetime: options.Lifetime = False,
    overdraft: options.Overdraft = "",
    enforcement: options.Enforcement = "hard",
    outage: options.Outage = "closed",
    outage_allowance: options.OutageAllowance = "",
    customer: options.Customer = "",
    project: options.Project = "",
    user: options.User = "",
    key: options.Key = "",
    dimension: options.Dimension = None,
    alert: options.Alerts = None,
    only_if: options.OnlyIf = "",
    overrides: options.Overrides = "",
    plan: options.Plan = "",
    until: options.Until = "",
    name: options.Name = "",
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Create a limit or replace it; its counters stay."""
    if bool(limit_id) == bool(file):
        raise CommandError("name either a limit or a file of limits by --file")
    if file:
        limit_file = read_limit_file(file)
        limits = run(data_dir, address, lambda services: _put_file(services, limit_file))
    else:
        units = unit or ["holds" if per == options.CONCURRENCY else "requests"]
        limit = Limit(
            limit_id=limit_id,
            display_name=name,
            level=_named(Level, "--level", level, options.LEVELS),
            subject=Subject(customer_id=customer, project_id=project, user_id=user, key_id=key),
            dimensions=dict(map(_parse_dimension, dimension or ())),
            units=units,
            capacity=_parse_amount("--capacity", capacity, units[0]),
            overdraft=_parse_amount("--overdraft", overdraft or "0", units[0]),
            enforcement=_named(Enforcement, "--enforcement", enforcement, options.ENFORCEMENTS),
            outage_policy=_named(OutagePolicy, "--outage", outage, options.OUTAGE_POLICIES),
            outage_allowance=_parse_amount("--outage-allowance", outage_allowance or "0", units[0]),
            filter=only_if,
            overrides=overrides,
            plan_id=plan,
            alert_thresholds=sorted(set(alert or ())),
        )
        if until:
            limit.expire_time.FromDatetime(parse_time_option("--until", until))
        _set_window(
            limit, _Window(per, time_zone, anchor, months, rolling, burst, is_lifetime=lifetime)
        )
        limits = run(data_dir, address, lambda services: _put_one(services, limit))
    output = Output(as_json=as_json)
    output.value({"limits": [_facts(each) for each in limits]})
    for each in limits:
        output.say(f"limit {each.limit_id}: {_capacity(each)} {_window(each)}{_outage(each)}")


@app.command()
def top_up(
    limit_id: Annotated[str, typer.Argument(help="A limit with a lifetime.")],
    amount: Annotated[str, typer.Argument(help="How much is paid in, in units, as 50 or 12.50.")],
    *,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Add to a prepaid balance."""

    async def work(services: Services) -> Limit:
        get = GetLimitRequest(limit_id=limit_id)
        unit = (await services.ask(services.quota.GetLimit, get)).limit.units[0]
        request = TopUpLimitRequest(
            request_id=new_request_id(),
            limit_id=limit_id,
            quantity=_parse_amount("AMOUNT", amount, unit),
        )
        return (await services.ask(services.quota.TopUpLimit, request)).limit

    limit = run(data_dir, address, work)
    output = Output(as_json=as_json)
    output.value({"limits": [_facts(limit)]})
    output.say(f"limit {limit.limit_id}: {_capacity(limit)} {_window(limit)}")


@app.command("list")
def list_limits(
    *,
    customer: Annotated[str, typer.Option(help="Only those that name this customer.")] = "",
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """List limits."""

    async def work(services: Services) -> list[Limit]:
        found: list[Limit] = []
        request = ListLimitsRequest(customer_id=customer, page_size=_LIMITS_PER_PAGE)
        async for page in services.pages(services.quota.ListLimits, request):
            found += page.limits
        return found

    limits = run(data_dir, address, work)
    output = Output(as_json=as_json)
    output.value({"limits": [_facts(limit) for limit in limits]})
    output.table(
        [
            Column("limit", style="cyan"),
            Column("counts for each"),
            Column("covers"),
            Column("capacity", right=True),
            Column("window"),
        ],
        [
            [
                limit.limit_id,
                Level.Name(limit.level).removeprefix("LEVEL_").lower(),
                _coverage(limit),
                _capacity(limit),
                _window(limit),
            ]
            for limit in limits
        ],
        empty="there are no limits; put one by `tollkeeper limits put`",
    )


async def _put_one(services: Services, limit: Limit) -> list[Limit]:
    request = PutLimitRequest(request_id=new_request_id(), limit=limit)
    return [(await services.ask(services.quota.PutLimit, request)).limit]


async def _put_file(services: Services, file: LimitFile) -> list[Limit]:
    stored = []
    for index, limit in enumerate(file.limits):
        request = PutLimitRequest(request_id=new_request_id(), limit=limit)
        try:
            answer = await services.quota.PutLimit(
                request, metadata=services.metadata, timeout=CALL_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            problems = parse_rpc_error(error).problems
            if problems:
                raise file.refused(index, problems) from None
            raise services.explain(error, request) from None
        stored.append(answer.limit)
    return stored


class _Window(NamedTuple):
    """What the options say of a window."""

    per: str
    time_zone: str
    anchor: str
    months: int
    rolling: str
    burst: str
    is_lifetime: bool


def _set_window(limit: Limit, window: _Window) -> None:
    per = window.per
    if window.is_lifetime:
        if any((per, window.time_zone, window.anchor, window.rolling, window.burst)):
            raise CommandError("--lifetime stands alone: what has one has no window")
        limit.lifetime.SetInParent()
        return
    if bool(per) == bool(window.rolling):
        raise CommandError("choose a window: either --per or --rolling, or --lifetime")
    if window.burst and not window.rolling:
        raise CommandError("--burst belongs to --rolling")
    if window.time_zone and per not in (*options.PERIODS, options.BILLING):
        raise CommandError("--time-zone belongs to --per with a period")
    if window.anchor and per != options.BILLING:
        raise CommandError("--anchor belongs to --per billing")
    if per:
        _set_period(limit, per, window.time_zone, window.anchor, window.months)
    else:
        _set_rate(limit, window.rolling, window.burst)


def _set_period(limit: Limit, per: str, time_zone: str, anchor: str, months: int) -> None:
    match _one_of("--per", per, options.WINDOWS):
        case options.CONCURRENCY:
            limit.concurrency.SetInParent()
        case options.BILLING:
            limit.billing_period.CopyFrom(
                BillingPeriodWindow(
                    anchor=_parse_anchor(anchor), months=months, time_zone=time_zone
                )
            )
        case period:
            number = CalendarPeriod.Value(f"CALENDAR_PERIOD_{period.upper()}")
            limit.calendar.CopyFrom(CalendarWindow(period=number, time_zone=time_zone))


def _parse_anchor(text: str) -> Date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise CommandError(f"--anchor {text!r} is not a day such as 2026-01-31") from None
    return Date(year=day.year, month=day.month, day=day.day)


def _set_rate(limit: Limit, rolling: str, burst: str) -> None:
    duration = parse_duration(rolling)
    if duration is None:
        raise CommandError(f"--rolling {rolling!r} is not a time such as 60s, 15m or 1h")
    message = Duration()
    message.FromTimedelta(duration)
    most = _parse_amount("--burst", burst, limit.units[0]) if burst else 0
    limit.rolling.CopyFrom(RollingRate(period=message, burst=most))


def _parse_amount(option: str, text: str, unit: str) -> int:
    """Read an amount in its unit, and give it in quanta."""
    try:
        return to_quanta(unit, Decimal(text))
    except InvalidOperation:
        raise CommandError(f"{option} {text!r} is not a number") from None
    except ValueError as error:
        raise CommandError(f"{option}: {error}") from None


def _named(values: Any, option: str, text: str, words: tuple[str, ...]) -> Any:  # noqa: ANN401 - any enumeration of the contract.
    """Find the value of an enumeration whose name ends with a word."""
    word = _one_of(option, text, words).upper()
    return next(value for name, value in values.items() if name.endswith(f"_{word}"))


def _one_of(option: str, text: str, words: tuple[str, ...]) -> str:
    if text not in words:
        raise CommandError(f"{option} {text!r} is none of {', '.join(words)}")
    return text


def _parse_dimension(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise CommandError(f"--dimension {text!r} is not written as model=large")
    return name, value


def _facts(limit: Limit) -> dict[str, object]:
    return dict(MessageToDict(limit, preserving_proto_field_name=True))


def _coverage(limit: Limit) -> str:
    subject = limit.subject
    ids = (
        ("customer", subject.customer_id),
        ("project", subject.project_id),
        ("user", subject.user_id),
        ("key", subject.key_id),
        ("run", subject.run_id),
        *sorted(limit.dimensions.items()),
        ("where", limit.filter),
        ("in the stead of", limit.overrides),
        ("priced by", limit.plan_id),
        ("until", limit.expire_time.ToJsonString() if limit.HasField("expire_time") else ""),
    )
    return ", ".join(f"{name} {value}" for name, value in ids if value) or "every call"


def _capacity(limit: Limit) -> str:
    return f"{from_quanta(limit.units[0], limit.capacity):,} {'+'.join(limit.units)}"


def _outage(limit: Limit) -> str:
    match limit.outage_policy:
        case OutagePolicy.OUTAGE_POLICY_OPEN:
            return "; in an outage all"
        case OutagePolicy.OUTAGE_POLICY_LEASED:
            allowance = from_quanta(limit.units[0], limit.outage_allowance)
            return f"; in an outage {allowance:,} at each replica"
        case _:
            return ""


def _window(limit: Limit) -> str:
    match limit.WhichOneof("window"):
        case "calendar":
            period = CalendarPeriod.Name(limit.calendar.period).removeprefix("CALENDAR_PERIOD_")
            return f"each {period.lower()}, {limit.calendar.time_zone or 'UTC'}"
        case "billing_period":
            window = limit.billing_period
            months = "month" if window.months == 1 else f"{window.months} months"
            return f"each {months} from the {window.anchor.day}., {window.time_zone or 'UTC'}"
        case "rolling":
            rolling = limit.rolling
            most = from_quanta(limit.units[0], rolling.burst or limit.capacity)
            return f"rolling {rolling.period.ToTimedelta()}, at most {most:,} at once"
        case "concurrency":
            return "at once"
        case _:
            overdraft = from_quanta(limit.units[0], limit.overdraft)
            return f"once, and {overdraft:,} beyond" if overdraft else "once"

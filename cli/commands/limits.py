"""`tollkeeper limits`: put limits, from options or a file, and look at them."""

from decimal import Decimal, InvalidOperation
from typing import Annotated

import grpc
import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict

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
    CalendarPeriod,
    CalendarWindow,
    Level,
    Limit,
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
    rolling: options.Rolling = "",
    burst: options.Burst = "",
    lifetime: options.Lifetime = False,
    customer: options.Customer = "",
    project: options.Project = "",
    user: options.User = "",
    key: options.Key = "",
    dimension: options.Dimension = None,
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
        units = unit or ["requests"]
        limit = Limit(
            limit_id=limit_id,
            display_name=name,
            level=Level.Value(f"LEVEL_{_one_of('--level', level, options.LEVELS).upper()}"),
            subject=Subject(customer_id=customer, project_id=project, user_id=user, key_id=key),
            dimensions=dict(map(_parse_dimension, dimension or ())),
            units=units,
            capacity=_parse_amount("--capacity", capacity, units[0]),
            filter=only_if,
            overrides=overrides,
            plan_id=plan,
        )
        if until:
            limit.expire_time.FromDatetime(parse_time_option("--until", until))
        if lifetime:
            _set_lifetime(limit, per, time_zone, rolling, burst)
        else:
            _set_window(limit, per, time_zone, rolling, burst)
        limits = run(data_dir, address, lambda services: _put_one(services, limit))
    output = Output(as_json=as_json)
    output.value({"limits": [_facts(each) for each in limits]})
    for each in limits:
        output.say(f"limit {each.limit_id}: {_capacity(each)} {_window(each)}")


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
        while True:
            page = await services.ask(services.quota.ListLimits, request)
            found += page.limits
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

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


def _set_window(limit: Limit, per: str, time_zone: str, rolling: str, burst: str) -> None:
    if bool(per) == bool(rolling):
        raise CommandError("choose a window: either --per or --rolling, or --lifetime")
    if per:
        if burst:
            raise CommandError("--burst belongs to --rolling")
        period = CalendarPeriod.Value(
            f"CALENDAR_PERIOD_{_one_of('--per', per, options.PERIODS).upper()}"
        )
        limit.calendar.CopyFrom(CalendarWindow(period=period, time_zone=time_zone))
        return
    if time_zone:
        raise CommandError("--time-zone belongs to --per")
    duration = parse_duration(rolling)
    if duration is None:
        raise CommandError(f"--rolling {rolling!r} is not a time such as 60s, 15m or 1h")
    message = Duration()
    message.FromTimedelta(duration)
    most = _parse_amount("--burst", burst, limit.units[0]) if burst else 0
    limit.rolling.CopyFrom(RollingRate(period=message, burst=most))


def _set_lifetime(limit: Limit, *windows: str) -> None:
    if any(windows):
        raise CommandError("--lifetime stands alone: what has one has no window")
    limit.lifetime.SetInParent()


def _parse_amount(option: str, text: str, unit: str) -> int:
    """Read an amount in its unit, and give it in quanta."""
    try:
        return to_quanta(unit, Decimal(text))
    except InvalidOperation:
        raise CommandError(f"{option} {text!r} is not a number") from None
    except ValueError as error:
        raise CommandError(f"{option}: {error}") from None


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


def _window(limit: Limit) -> str:
    if limit.HasField("calendar"):
        period = CalendarPeriod.Name(limit.calendar.period).removeprefix("CALENDAR_PERIOD_")
        return f"each {period.lower()}, {limit.calendar.time_zone or 'UTC'}"
    if limit.HasField("lifetime"):
        return "once"
    if limit.HasField("billing_period"):
        billing = limit.billing_period
        months = "month" if billing.months in (0, 1) else f"{billing.months} months"
        return f"each {months} from day {billing.anchor.day}, {billing.time_zone or 'UTC'}"
    if limit.HasField("concurrency"):
        return "open at the same time"
    rolling = limit.rolling
    most = from_quanta(limit.units[0], rolling.burst or limit.capacity)
    return f"rolling {rolling.period.ToTimedelta()}, at most {most:,} at once"

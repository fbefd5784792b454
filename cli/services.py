"""The five services as a command calls them: where they are, with which token, and what they say.

Whatever goes wrong between the command and a service becomes one `CommandError` in plain words.
"""

import asyncio
import os
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

import grpc
import typer
from google.protobuf.message import Message

from cli.embedded.data_directory import DEFAULT
from cli.errors import CommandError
from cli.running import Running
from kit.rpc.channel import open_channel
from kit.settings import DEFAULT_ADDRESSES
from tollkeeper import CallFailed
from tollkeeper.api.invoicing.v1.invoicing_service_pb2_grpc import InvoicingServiceStub
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from tollkeeper.api.rating.v1.rating_service_pb2_grpc import RatingServiceStub
from tollkeeper.api.tax.v1.tax_service_pb2_grpc import TaxServiceStub
from tollkeeper.errors import parse_rpc_error

if TYPE_CHECKING:
    # The generated modules have these for type checkers alone.
    from tollkeeper.api.invoicing.v1.invoicing_service_pb2_grpc import InvoicingServiceAsyncStub
    from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceAsyncStub
    from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceAsyncStub
    from tollkeeper.api.rating.v1.rating_service_pb2_grpc import RatingServiceAsyncStub
    from tollkeeper.api.tax.v1.tax_service_pb2_grpc import TaxServiceAsyncStub

CALL_TIMEOUT_S = 30.0

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)
Result = TypeVar("Result")

Addresses = Annotated[
    list[str] | None,
    typer.Option(
        "--address",
        metavar="SERVICE=HOST:PORT",
        help="Where a service is, for example meter=127.0.0.1:7302; repeatable. "
        "Else TOLLKEEPER_<SERVICE>_ADDRESS, else the suite running in the data directory.",
    ),
]


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the services are and on whose behalf they are called.

    Args:
        addresses: Host and port by service name.
        token: The signed token.
    """

    addresses: Mapping[str, str]
    token: str


def find_connection(data_dir: Path = DEFAULT, addresses: Sequence[str] | None = None) -> Connection:
    """Find out how to call the services.

    TOLLKEEPER_TOKEN and TOLLKEEPER_<SERVICE>_ADDRESS of the environment come first; without a token
    there, what the suite running in the data directory wrote down is taken. `addresses`, each
    written `service=host:port`, win over both.

    Raises:
        CommandError: There is no token, or something is not written as it must be.
    """
    environment = {
        service: os.environ.get(f"TOLLKEEPER_{service.upper()}_ADDRESS", "")
        for service in DEFAULT_ADDRESSES
    }
    named = {service: address for service, address in environment.items() if address}
    named |= dict(map(_parse_address_option, addresses or ()))
    token = os.environ.get("TOLLKEEPER_TOKEN", "")
    found: Mapping[str, str] = DEFAULT_ADDRESSES
    if not token:
        running = _running_suite(data_dir)
        token, found = running.admin_token, running.addresses
    if not _TOKEN.fullmatch(token):
        raise CommandError("TOLLKEEPER_TOKEN is not a token; make one by `tollkeeper keys create`")
    for service, address in named.items():
        if not _ADDRESS.fullmatch(address):
            raise CommandError(
                f"{address!r} is no address of {service}; write host and port, as in "
                f"{DEFAULT_ADDRESSES[service]}"
            )
    return Connection({**DEFAULT_ADDRESSES, **found, **named}, token)


def _running_suite(data_dir: Path) -> Running:
    try:
        return Running.load(data_dir)
    except CommandError as error:
        raise CommandError(f"{error}, or set TOLLKEEPER_TOKEN") from None


def _parse_address_option(text: str) -> tuple[str, str]:
    service, _, address = text.partition("=")
    if service not in DEFAULT_ADDRESSES:
        raise CommandError(
            f"--address {text!r} names no service; write SERVICE=HOST:PORT with one of "
            f"{', '.join(DEFAULT_ADDRESSES)}"
        )
    return service, address


class Services:
    """The stubs of the five services, for one event loop; used as an async context manager."""

    quota: "QuotaServiceAsyncStub"
    meter: "MeterServiceAsyncStub"
    rating: "RatingServiceAsyncStub"
    tax: "TaxServiceAsyncStub"
    invoicing: "InvoicingServiceAsyncStub"

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.metadata = (("authorization", f"Bearer {connection.token}"),)
        self._channels: list[grpc.aio.Channel] = []

    async def __aenter__(self) -> Self:
        self.quota = QuotaServiceStub(self._open("quota"))
        self.meter = MeterServiceStub(self._open("meter"))
        self.rating = RatingServiceStub(self._open("rating"))
        self.tax = TaxServiceStub(self._open("tax"))
        self.invoicing = InvoicingServiceStub(self._open("invoicing"))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def ask(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Answer],
        request: Request,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Answer:
        """Call a method and return its answer.

        Raises:
            CommandError: The service refused the call or did not answer.
        """
        try:
            return await method(request, timeout=timeout_s, metadata=self.metadata)
        except grpc.aio.AioRpcError as error:
            raise self.explain(error, request) from None

    async def pages(
        self, method: grpc.aio.UnaryUnaryMultiCallable[Request, Answer], request: Request
    ) -> AsyncIterator[Answer]:
        """Call a method that lists, as often as it has more, and answer every page.

        Raises:
            CommandError: The service refused the call or did not answer.
        """
        # Of messages only those that list have tokens.
        paged: Any = request
        while True:
            page: Any = await self.ask(method, request)
            yield page
            if not page.next_page_token:
                return
            paged.page_token = page.next_page_token

    async def stream(
        self, method: grpc.aio.UnaryStreamMultiCallable[Request, Answer], request: Request
    ) -> AsyncIterator[Answer]:
        """Call a method and yield its answers.

        Raises:
            CommandError: As `ask`.
        """
        try:
            async for answer in method(request, metadata=self.metadata):
                yield answer
        except grpc.aio.AioRpcError as error:
            raise self.explain(error, request) from None

    def explain(self, error: grpc.aio.AioRpcError, request: Message) -> CommandError:
        """Say in one line why a service did not do what it was asked."""
        service = service_of(request)
        return CommandError(
            explain_failure(parse_rpc_error(error), service, self.connection.addresses[service])
        )

    def _open(self, service: str) -> grpc.aio.Channel:
        channel = open_channel(self.connection.addresses[service])
        self._channels.append(channel)
        return channel


def explain_failure(failure: CallFailed, service: str, address: str) -> str:
    """Say in one line what a failed call means and, where that is known, what to do about it."""
    # What a service says itself has a reason; what the transport says has none.
    match failure.code, bool(failure.reason):
        case grpc.StatusCode.UNAVAILABLE, False:
            return (
                f"the {service} service does not answer at {address}; start everything by "
                f"`tollkeeper up`, or name another address by --address or "
                f"TOLLKEEPER_{service.upper()}_ADDRESS"
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED, False:
            return f"the {service} service at {address} took too long to answer"
        case grpc.StatusCode.UNAUTHENTICATED, _:
            return f"the {service} service does not accept the token: {_sentence(failure)}"
        case grpc.StatusCode.INTERNAL, _:
            return f"the {service} service failed ({_sentence(failure)}); see its log"
        case _:
            return f"the {service} service refused: {_sentence(failure)}"


def service_of(request: Message) -> str:
    """Tell a request's service by its package: `tollkeeper.api.meter.v1` is `meter`'s."""
    return request.DESCRIPTOR.full_name.split(".")[2]


def run(
    data_dir: Path, addresses: Sequence[str] | None, work: Callable[[Services], Awaitable[Result]]
) -> Result:
    """Do the work of a command with the services at hand."""

    async def connected() -> Result:
        async with Services(find_connection(data_dir, addresses)) as services:
            return await work(services)

    return asyncio.run(connected())


def new_request_id() -> str:
    """Make the id of one mutation."""
    return secrets.token_hex(16)


def _sentence(failure: CallFailed) -> str:
    """Give the message without its status code, on one line."""
    text = str(failure).removeprefix(f"{failure.code.name}: ")
    return " ".join(text.split())

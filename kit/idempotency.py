"""Every mutation happens once: a repeat gets the first answer.

The request id is claimed, and the answer stored, in the transaction of the effect itself, so
that both exist or neither does. Refuses the same id with other content. A failure is not an
answer: it rolls back, and the same id may be tried again.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Generic, TypeVar

from google.protobuf.message import Message
from sqlalchemy import (
    Column,
    DateTime,
    LargeBinary,
    MetaData,
    Row,
    Table,
    Text,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.errors import Conflict, InvalidInput
from kit.postgres import service_of

Value = TypeVar("Value")
Answer = TypeVar("Answer", bound=Message)

REQUEST_ID_LENGTH_MAX = 128


def fingerprint(message: Message) -> bytes:
    """Digest what a request asks for: everything but its `request_id`."""
    content = type(message)()
    content.CopyFrom(message)
    content.ClearField("request_id")
    return hashlib.sha256(content.SerializeToString(deterministic=True)).digest()


def parse_request_id(request_id: str) -> str:
    """Check a request id: 1 to 128 characters.

    Raises:
        InvalidInput: naming `request_id`.
    """
    if not request_id:
        raise InvalidInput.of("request_id", "is required")
    if len(request_id) > REQUEST_ID_LENGTH_MAX:
        raise InvalidInput.of("request_id", f"must have at most {REQUEST_ID_LENGTH_MAX} characters")
    if not request_id.isprintable():
        raise InvalidInput.of("request_id", "must have printable characters only")
    return request_id


@dataclass(frozen=True, slots=True)
class Once(Generic[Value, Answer]):
    """One mutation, told apart from every other by its request id.

    `method` is the RPC's name, such as `PutMeter`; `fingerprint` is of the request; `render`
    makes the answer out of what the use case produced, and `answer_type` reads it back.
    """

    request_id: str
    method: str
    fingerprint: bytes
    answer_type: type[Answer]
    render: Callable[[Value], Answer]
    now: datetime

    def __post_init__(self) -> None:
        parse_request_id(self.request_id)

    async def run(
        self, transaction: AsyncConnection, tenant: str, produce: Callable[[], Awaitable[Value]]
    ) -> Answer:
        """Produce and store the answer, or return the one stored before.

        A simultaneous repeat waits until the first one's transaction ends.

        Raises:
            Conflict: REQUEST_ID_REUSED, the id was used before with other content.
        """
        table = _table(service_of(transaction))
        claim = insert(table).values(
            tenant_id=tenant,
            request_id=self.request_id,
            method=self.method,
            fingerprint=self.fingerprint,
            create_time=self.now,
        )
        claimed = await transaction.execute(claim.on_conflict_do_nothing())
        this = (table.c.tenant_id == tenant) & (table.c.request_id == self.request_id)
        if not claimed.rowcount:
            found = await transaction.execute(
                select(table.c.method, table.c.fingerprint, table.c.answer).where(this)
            )
            return self._first_answer(found.one())
        answer = self.render(await produce())
        stored = answer.SerializeToString()
        await transaction.execute(update(table).where(this).values(answer=stored))
        return answer

    def _first_answer(self, first: Row[tuple[str, bytes, bytes]]) -> Answer:
        if (first.method, first.fingerprint) != (self.method, self.fingerprint):
            raise Conflict(
                "REQUEST_ID_REUSED",
                f"the request_id was used before by {first.method} with other content",
                metadata={"request_id": self.request_id, "method": first.method},
            )
        answer = self.answer_type()
        answer.ParseFromString(first.answer)
        return answer


@cache
def _table(service: str) -> Table:
    return Table(
        "idempotency",
        MetaData(),
        Column("tenant_id", Text, primary_key=True),
        Column("request_id", Text, primary_key=True),
        Column("method", Text),
        Column("fingerprint", LargeBinary),
        Column("answer", LargeBinary),
        Column("create_time", DateTime(timezone=True)),
        schema=service,
    )

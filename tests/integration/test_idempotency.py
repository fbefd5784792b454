"""Law 6: the same request twice happens once; anything else under its id is refused."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kit.errors import Conflict, InvalidInput, NotFound, Violation
from kit.idempotency import Once, fingerprint
from kit.migrations import migrate
from kit.postgres import Database
from tests.echo_contract import Echo, EchoMessage
from tests.notes_schema import FIRST_REVISION, SERVICE, insert_note, list_notes, write_revisions

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
async def database(empty_database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    """A pool onto a fresh database with a table of notes."""
    revisions = write_revisions(tmp_path, FIRST_REVISION)
    await asyncio.to_thread(migrate, empty_database_url, SERVICE, directory=revisions)
    database = Database(empty_database_url, SERVICE)
    yield database
    await database.close()


def once(request: EchoMessage, method: str = "PutNote") -> Once[str, EchoMessage]:
    """Make what a servicer makes of a request."""
    return Once(
        request_id=request.request_id,
        method=method,
        fingerprint=fingerprint(request),
        answer_type=Echo,
        render=lambda note: Echo(text=f"put {note}"),
        now=NOON,
    )


async def put_note(
    database: Database,
    request: EchoMessage,
    *,
    tenant: str = "acme",
    method: str = "PutNote",
    fault: Exception | None = None,
) -> EchoMessage:
    """Put a note as a use case does; with a fault, fail after having written it."""
    async with database.transaction(tenant) as transaction:

        async def produce() -> str:
            await insert_note(transaction, tenant, request.text)
            if fault is not None:
                raise fault
            return str(request.text)

        return await once(request, method).run(transaction, tenant, produce)


async def notes_of(database: Database, tenant: str = "acme") -> list[tuple[str, str]]:
    """List what a tenant has."""
    async with database.transaction(tenant) as transaction:
        return await list_notes(transaction)


async def test_a_repeat_gets_the_first_answer_and_changes_nothing(database: Database) -> None:
    """The same id and content, however often: one effect, one answer."""
    request = Echo(request_id="r1", text="n1")

    answers = [await put_note(database, request) for _ in range(3)]

    assert answers == [Echo(text="put n1")] * 3
    assert await notes_of(database) == [("acme", "n1")]


async def test_simultaneous_repeats_happen_once(database: Database) -> None:
    """Eight at the same moment: the others wait for the first, and get its answer."""
    request = Echo(request_id="r1", text="n1")

    answers = await asyncio.gather(*(put_note(database, request) for _ in range(8)))

    assert answers == [Echo(text="put n1")] * 8
    assert await notes_of(database) == [("acme", "n1")]


async def test_an_empty_answer_is_an_answer(database: Database) -> None:
    """A repeat of a call that answered an empty message does not happen again."""
    request = Echo(request_id="r1", text="n1")

    async def delete() -> EchoMessage:
        async with database.transaction("acme") as transaction:

            async def produce() -> str:
                await insert_note(transaction, "acme", "n1")
                return ""

            deleting: Once[str, EchoMessage] = Once(
                "r1", "DeleteNote", fingerprint(request), Echo, lambda _: Echo(), NOON
            )
            return await deleting.run(transaction, "acme", produce)

    assert [await delete(), await delete()] == [Echo(), Echo()]


@pytest.mark.parametrize(
    ("text", "method"),
    [
        pytest.param("n2", "PutNote", id="other content"),
        pytest.param("n1", "DeleteNote", id="another method"),
    ],
)
async def test_the_same_id_for_anything_else_is_refused(
    database: Database, text: str, method: str
) -> None:
    """An id belongs to one method and one content, and nothing is changed."""
    await put_note(database, Echo(request_id="r1", text="n1"))

    with pytest.raises(Conflict) as refused:
        await put_note(database, Echo(request_id="r1", text=text), method=method)

    assert (refused.value.reason, refused.value.metadata, str(refused.value)) == (
        "REQUEST_ID_REUSED",
        {"request_id": "r1", "method": "PutNote"},
        "the request_id was used before by PutNote with other content",
    )
    assert await notes_of(database) == [("acme", "n1")]


async def test_two_different_requests_racing_under_one_id_happen_once(database: Database) -> None:
    """One wins, the other is refused; never do both happen."""
    requests = [Echo(request_id="r1", text=text) for text in ("n1", "n2")]

    outcomes = await asyncio.gather(
        *(put_note(database, request) for request in requests), return_exceptions=True
    )

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "Echo"]
    assert len(await notes_of(database)) == 1


async def test_a_failure_is_not_remembered(database: Database) -> None:
    """What failed left nothing behind, and the same id may be tried again."""
    request = Echo(request_id="r1", text="n1")
    with pytest.raises(NotFound):
        await put_note(database, request, fault=NotFound("NOTE_NOT_FOUND", "not yet"))
    after_failure = await notes_of(database)

    answer = await put_note(database, request)

    assert (after_failure, answer) == ([], Echo(text="put n1"))


async def test_a_waiting_repeat_takes_over_when_the_first_fails(database: Database) -> None:
    """A repeat that waited for one that rolled back does the work itself."""
    request = Echo(request_id="r1", text="n1")
    claimed, fail = asyncio.Event(), asyncio.Event()

    async def first() -> EchoMessage:
        async with database.transaction("acme") as transaction:

            async def produce() -> str:
                claimed.set()
                await fail.wait()
                raise NotFound("NOTE_NOT_FOUND", "not yet")

            return await once(request).run(transaction, "acme", produce)

    failing = asyncio.create_task(first())
    await claimed.wait()
    repeating = asyncio.create_task(put_note(database, request))
    fail.set()

    with pytest.raises(NotFound):
        await failing
    assert await repeating == Echo(text="put n1")


async def test_two_tenants_may_use_the_same_id(database: Database) -> None:
    """Ids of one tenant neither block nor answer another's."""
    request = Echo(request_id="r1", text="n1")

    for tenant in ("acme", "globex"):
        await put_note(database, request, tenant=tenant)

    assert await notes_of(database, "acme") == [("acme", "n1")]
    assert await notes_of(database, "globex") == [("globex", "n1")]


@pytest.mark.parametrize(
    ("request_id", "description"),
    [
        pytest.param("", "is required", id="missing"),
        pytest.param("r" * 129, "must have at most 128 characters", id="too long"),
        pytest.param("r\0", "must have printable characters only", id="a zero byte"),
        pytest.param("r\n", "must have printable characters only", id="a line end"),
    ],
)
def test_a_request_id_is_short_and_printable(request_id: str, description: str) -> None:
    """The error names the field."""
    with pytest.raises(InvalidInput) as refused:
        once(Echo(request_id=request_id))

    assert refused.value.violations == (Violation("request_id", description),)


def test_a_fingerprint_ignores_the_request_id_and_nothing_else() -> None:
    """Two requests that ask for the same have one fingerprint; the request stays as it was."""
    request = Echo(request_id="r1", text="n1")

    assert fingerprint(request) == fingerprint(Echo(request_id="r2", text="n1"))
    assert fingerprint(request) != fingerprint(Echo(request_id="r1", text="n2"))
    assert request == Echo(request_id="r1", text="n1")

"""A schema for tests of kit's database half: a service `notes` with one table of notes."""

from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

SERVICE = "notes"

FIRST_REVISION = '''
"""Notes."""

import sqlalchemy as sa
from alembic import op

from kit.migrations import create_idempotency_table, enable_tenant_isolation

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "notes",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("note_id", sa.Text, primary_key=True),
        schema="notes",
    )
    enable_tenant_isolation(op, "notes", "notes")
    create_idempotency_table(op, "notes")
'''
SECOND_REVISION = '''
"""Colours."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("notes", sa.Column("colour", sa.Text), schema="notes")
'''
BROKEN_REVISION = '''
"""Does half of its work."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE notes.notes ADD COLUMN colour text")
    op.execute("SELECT 1 / 0")
'''

_INSERT = text("INSERT INTO notes.notes (tenant_id, note_id) VALUES (:tenant, :note)")
_LIST = text("SELECT tenant_id, note_id FROM notes.notes ORDER BY 1, 2")


def write_revisions(folder: Path, *revisions: str) -> Path:
    """Write revision files into the folder, and answer it."""
    for number, content in enumerate(revisions, start=1):
        (folder / f"{number:04}_revision.py").write_text(content)
    return folder


async def insert_note(transaction: AsyncConnection, tenant: str, note: str) -> None:
    """Insert a note, whatever the transaction's tenant is."""
    await transaction.execute(_INSERT, {"tenant": tenant, "note": note})


async def list_notes(transaction: AsyncConnection) -> list[tuple[str, str]]:
    """List the notes the transaction may see."""
    return [(row.tenant_id, row.note_id) for row in await transaction.execute(_LIST)]

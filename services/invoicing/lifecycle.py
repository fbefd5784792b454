"""The states of an invoice and the moves between them, as one table.

What the table does not name is refused. There is no way back from issued to draft: a correction
is a new document.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from kit.errors import Precondition
from services.invoicing.model import InvoiceState


class Move(StrEnum):
    """What can be done to an invoice; each value completes "it cannot be …"."""

    RECOMPUTE = "computed anew"
    FINALIZE = "finalized"
    VOID = "voided"
    RENDER = "made into a document"


LEGAL_MOVES: Mapping[tuple[InvoiceState, Move], InvoiceState] = MappingProxyType(
    {
        (InvoiceState.DRAFT, Move.RECOMPUTE): InvoiceState.DRAFT,
        (InvoiceState.DRAFT, Move.FINALIZE): InvoiceState.FINALIZED,
        (InvoiceState.FINALIZED, Move.VOID): InvoiceState.VOIDED,
        (InvoiceState.FINALIZED, Move.RENDER): InvoiceState.FINALIZED,
        (InvoiceState.VOIDED, Move.RENDER): InvoiceState.VOIDED,
    }
)


def decide_state(invoice_id: str, state: InvoiceState, move: Move) -> InvoiceState:
    """Answer the state after a move.

    Raises:
        Precondition: INVOICE_STATE, the move is not legal in that state.
    """
    following = LEGAL_MOVES.get((state, move))
    if following is None:
        raise Precondition(
            "INVOICE_STATE",
            f"the invoice {invoice_id} is {state.lower()}; it cannot be {move}",
            metadata={"invoice_id": invoice_id, "state": state.value},
        )
    return following

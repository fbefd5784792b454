"""Every state of an invoice and every move."""

import pytest

from kit.errors import Precondition
from services.invoicing.lifecycle import Move, decide_state
from services.invoicing.model import InvoiceState

DRAFT, FINALIZED, VOIDED = InvoiceState.DRAFT, InvoiceState.FINALIZED, InvoiceState.VOIDED


@pytest.mark.parametrize(
    ("state", "move", "following"),
    [
        (DRAFT, Move.RECOMPUTE, DRAFT),
        (DRAFT, Move.FINALIZE, FINALIZED),
        (FINALIZED, Move.VOID, VOIDED),
        (FINALIZED, Move.RENDER, FINALIZED),
        (VOIDED, Move.RENDER, VOIDED),
    ],
)
def test_a_legal_move_leads_to_its_state(
    state: InvoiceState, move: Move, following: InvoiceState
) -> None:
    """Five moves are legal, and each leads to one state."""
    assert decide_state("inv_1", state, move) is following


@pytest.mark.parametrize(
    ("state", "move", "message"),
    [
        (DRAFT, Move.VOID, "the invoice inv_1 is draft; it cannot be voided"),
        (DRAFT, Move.RENDER, "the invoice inv_1 is draft; it cannot be made into a document"),
        (FINALIZED, Move.RECOMPUTE, "the invoice inv_1 is finalized; it cannot be computed anew"),
        (FINALIZED, Move.FINALIZE, "the invoice inv_1 is finalized; it cannot be finalized"),
        (VOIDED, Move.RECOMPUTE, "the invoice inv_1 is voided; it cannot be computed anew"),
        (VOIDED, Move.FINALIZE, "the invoice inv_1 is voided; it cannot be finalized"),
        (VOIDED, Move.VOID, "the invoice inv_1 is voided; it cannot be voided"),
    ],
)
def test_every_other_move_is_refused_in_words(
    state: InvoiceState, move: Move, message: str
) -> None:
    """What the table does not name raises INVOICE_STATE and says what is the case."""
    with pytest.raises(Precondition) as refused:
        decide_state("inv_1", state, move)

    assert (refused.value.reason, refused.value.message, refused.value.metadata) == (
        "INVOICE_STATE",
        message,
        {"invoice_id": "inv_1", "state": state.value},
    )


def test_the_two_tables_above_name_every_pair() -> None:
    """Five legal and seven refused moves are all there are."""
    assert len(InvoiceState) * len(Move) == 5 + 7

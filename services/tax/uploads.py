"""Rates that a seller uploads: they replace rates of the tables, or add local taxes in the US.

A row without postal codes replaces the rate of the same jurisdiction and name on its days. A row
with them is a local tax of a state, at addresses whose postal code begins so. Where a state has not
decided whether it taxes a service, a rate for it is the seller's decision, and 0 that it does not.
It refuses rows that replace nothing, local taxes elsewhere, and two that would hold at one address
on one day.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise

from kit.errors import InvalidInput
from services.tax.model import DateRange
from services.tax.rulebook import Rate, Rulebook, normalize_postal_code

ROWS_PER_TAX_MAX = 200

_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class UploadedRate:
    """A rate that the seller answers for."""

    jurisdiction: str
    name: str
    rate_percent: Decimal
    postal_codes: tuple[str, ...]
    valid: DateRange
    source: str


def check_uploads(uploads: Sequence[UploadedRate], book: Rulebook) -> None:
    """Make sure that rates can be laid over the tables.

    Raises:
        InvalidInput: naming the row that contradicts the tables or another row.
    """
    groups: defaultdict[_Key, list[tuple[int, UploadedRate]]] = defaultdict(list)
    for index, row in enumerate(uploads):
        field = f"rates[{index}]"
        known = {rate.name for rate in book.rates.get(row.jurisdiction, ())}
        if not known:
            raise InvalidInput.of(f"{field}.jurisdiction", "has no rate in the tables")
        if row.postal_codes and not row.jurisdiction.startswith("US-"):
            raise InvalidInput.of(f"{field}.postal_codes", "must be empty outside the US")
        if not row.postal_codes and row.name not in known:
            names = ", ".join(sorted(known))
            raise InvalidInput.of(f"{field}.name", f"must be one of the tables: {names}")
        decides_a_state = row.jurisdiction.startswith("US-") and not row.postal_codes
        if not row.rate_percent and not decides_a_state:
            raise InvalidInput.of(f"{field}.rate_percent", "must be above 0")
        groups[row.jurisdiction, row.name].append((index, row))
    for (jurisdiction, name), rows in groups.items():
        if len(rows) > ROWS_PER_TAX_MAX:
            raise InvalidInput.of(
                "rates", f"must hold at most {ROWS_PER_TAX_MAX} rows of {name} in {jurisdiction}"
            )
        _check_overlaps(rows)


def _check_overlaps(rows: Sequence[tuple[int, UploadedRate]]) -> None:
    """Refuse two rows that would hold at one address on one day."""
    by_prefix: defaultdict[str, list[tuple[int, UploadedRate]]] = defaultdict(list)
    for index, row in rows:
        for code in row.postal_codes or ("",):
            by_prefix[normalize_postal_code(code)].append((index, row))
    for prefix in by_prefix:
        ancestors = (prefix[:length] for length in range(len(prefix) + 1))
        here = [each for ancestor in ancestors for each in by_prefix.get(ancestor, ())]
        here.sort(key=lambda each: each[1].valid.start)
        for (first, earlier), (second, later) in pairwise(here):
            if earlier.valid.overlaps(later.valid):
                raise InvalidInput.of(
                    f"rates[{max(first, second)}].start_date",
                    f"overlaps rates[{min(first, second)}] of the same place and name",
                )


def lay_over(book: Rulebook, uploads: Sequence[UploadedRate]) -> Rulebook:
    """Answer the tables with the rates of a seller laid over them."""
    if not uploads:
        return book
    rates = dict(book.rates)
    local: defaultdict[str, list[tuple[tuple[str, ...], Rate]]] = defaultdict(list)
    for row in uploads:
        rate = Rate(
            row.jurisdiction,
            row.name,
            row.rate_percent,
            row.valid,
            _source(row),
            is_uploaded=True,
        )
        if row.postal_codes:
            prefixes = tuple(map(normalize_postal_code, row.postal_codes))
            local[row.jurisdiction].append((prefixes, rate))
        else:
            kept = [part for each in rates[row.jurisdiction] for part in _outside(each, rate)]
            rates[row.jurisdiction] = (*kept, rate)
    return replace(
        book, rates=rates, local_rates={place: tuple(rows) for place, rows in local.items()}
    )


def _source(row: UploadedRate) -> str:
    return f"{row.source} (uploaded by the seller)"


def _outside(rate: Rate, over: Rate) -> list[Rate]:
    """Answer what is left of a rate where another of its name is laid over it."""
    if rate.name != over.name or not rate.valid.overlaps(over.valid):
        return [rate]
    left = []
    if rate.valid.start < over.valid.start:
        left.append(replace(rate, valid=DateRange(rate.valid.start, over.valid.start)))
    if over.valid.end is not None and (rate.valid.end is None or over.valid.end < rate.valid.end):
        left.append(replace(rate, valid=DateRange(over.valid.end, rate.valid.end)))
    return left

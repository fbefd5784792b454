"""Draws what a simulation says as SVG or PNG: how many customers would pay how much less or more.

Typst sets the picture, as it sets invoices, with the fonts that it brings: the same figures give
the same picture on every machine.
"""

import json
from pathlib import Path

import typst
from google.type.money_pb2 import Money

from cli.errors import CommandError, writing
from cli.output import money_text
from kit.decimals import parse_decimal, plain
from kit.rpc.wire import parse_money
from tollkeeper.api.rating.v1.simulation_pb2 import (
    CandidateReport,
    ChangeBucket,
    SimulationReport,
)

FORMATS = ("svg", "png")
_TEMPLATE = Path(__file__).parent / "templates" / "simulation.typ"
_PNG_DOTS_PER_INCH = 144.0


def draw_report(report: SimulationReport, period: str, file: Path) -> None:
    """Write the picture; its name says the format.

    Raises:
        CommandError: the name says no format there is.
    """
    format_ = file.suffix.removeprefix(".").lower()
    if format_ not in FORMATS:
        raise CommandError(f"{file} must end in one of {', '.join(f'.{each}' for each in FORMATS)}")
    fonts = typst.Fonts(include_system_fonts=False, include_embedded_fonts=True)
    data = {
        "title": f"What {report.customer_count:,} customers would pay",
        "period": period,
        "candidates": [_candidate(candidate) for candidate in report.candidates],
    }
    content = typst.compile(
        _TEMPLATE,
        root=_TEMPLATE.parent,
        font_paths=fonts,
        format="svg" if format_ == "svg" else "png",
        ppi=_PNG_DOTS_PER_INCH,
        sys_inputs={"data": json.dumps(data, ensure_ascii=False)},
    )
    assert isinstance(content, bytes), "a page of any height is the only one"
    with writing(file):
        file.write_bytes(content)


def bucket_name(bucket: ChangeBucket) -> str:
    """Name a bucket for people: `5 to 10 %`."""
    if bucket.from_nothing:
        return "from nothing"
    above = _percent(bucket, "above_percent")
    up_to = _percent(bucket, "up_to_percent")
    if above == up_to:
        return "unchanged"
    if not above:
        return f"up to {up_to} %"
    return f"{above} to {up_to} %" if up_to else f"above {above} %"


def change_text(current: Money, simulated: Money) -> str:
    """Write by how much an amount changes: `+12.50 USD (+5.0 %)`."""
    now, then = parse_money(current, "current"), parse_money(simulated, "simulated")
    change = (then - now).to_decimal()
    text = f"{change:+,} {then.currency}"
    if not now.minor_units:
        return text
    tenths = round(1000 * (then.minor_units - now.minor_units) / now.minor_units)
    return f"{text} ({'-' if tenths < 0 else '+'}{abs(tenths) // 10}.{abs(tenths) % 10} %)"


def _candidate(candidate: CandidateReport) -> dict[str, object]:
    total = candidate.total
    return {
        "plan": candidate.plan_id,
        "current": money_text(total.current),
        "simulated": money_text(total.simulated),
        "change": change_text(total.current, total.simulated),
        "winners": candidate.winner_count,
        "unchanged": candidate.unchanged_count,
        "losers": candidate.loser_count,
        "buckets": [
            {
                "name": bucket_name(bucket),
                "customers": bucket.customer_count,
                "side": _side(bucket),
            }
            for bucket in candidate.distribution
        ],
    }


def _side(bucket: ChangeBucket) -> str:
    if bucket.from_nothing or not bucket.HasField("up_to_percent"):
        return "more"
    up_to = parse_decimal(bucket.up_to_percent.value, "up_to_percent")
    if bucket.above_percent.value == bucket.up_to_percent.value:
        return "same"
    return "less" if up_to <= 0 else "more"


def _percent(bucket: ChangeBucket, name: str) -> str:
    if not bucket.HasField(name):  # type: ignore[arg-type]
        return ""
    return plain(parse_decimal(getattr(bucket, name).value, name))

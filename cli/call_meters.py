"""The meters of AI calls, which `replay` and `demo` put where they are missing.

They count usage events of the type `llm.call`. A meter of the same id that somebody defined
otherwise is left as it is.
"""

from collections.abc import Sequence

from cli.services import Services, new_request_id
from tollkeeper.api.meter.v1.meter_pb2 import AGGREGATION_COUNT, AGGREGATION_SUM, Meter
from tollkeeper.api.meter.v1.meter_service_pb2 import ListMetersRequest, PutMeterRequest

CALL_TYPE = "llm.call"
TRACE_DIMENSION = "trace"
_GROUP_BY = ("model", TRACE_DIMENSION)
_METERS_PER_PAGE = 1000


def token_meter(quantity: str, display_name: str) -> Meter:
    """Describe the meter that adds up one quantity of the calls and has its name."""
    return Meter(
        meter_id=quantity,
        display_name=display_name,
        event_type=CALL_TYPE,
        aggregation=AGGREGATION_SUM,
        quantity=quantity,
        group_by=_GROUP_BY,
        unit="token",
    )


CALLS = Meter(
    meter_id="calls",
    display_name="AI calls",
    event_type=CALL_TYPE,
    aggregation=AGGREGATION_COUNT,
    group_by=_GROUP_BY,
    unit="call",
)
INPUT_TOKENS = token_meter("input_tokens", "Input tokens")
OUTPUT_TOKENS = token_meter("output_tokens", "Output tokens")
CACHED_INPUT_TOKENS = token_meter("cached_input_tokens", "Cached input tokens")


async def list_meters(services: Services) -> dict[str, Meter]:
    """Return every meter of the tenant by its id."""
    meters: dict[str, Meter] = {}
    request = ListMetersRequest(page_size=_METERS_PER_PAGE)
    async for page in services.pages(services.meter.ListMeters, request):
        meters |= {meter.meter_id: meter for meter in page.meters}
    return meters


async def put_missing_meters(services: Services, meters: Sequence[Meter]) -> dict[str, Meter]:
    """Put those meters whose ids are free, and return every meter of the tenant by its id."""
    stored = await list_meters(services)
    for meter in meters:
        if meter.meter_id not in stored:
            request = PutMeterRequest(request_id=new_request_id(), meter=meter)
            answer = await services.ask(services.meter.PutMeter, request)
            stored[meter.meter_id] = answer.meter
    return stored

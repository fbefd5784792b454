"""`tollkeeper quota alerts`: which thresholds of limits were crossed."""

from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from cli.embedded.data_directory import DEFAULT
from cli.options import AsJson, DataDir
from cli.output import Column, Output
from cli.services import Addresses, Services, run
from tollkeeper.api.quota.v1.quota_pb2 import Alert
from tollkeeper.api.quota.v1.quota_service_pb2 import ListAlertsRequest

_PER_PAGE = 1000


def alerts(
    *,
    customer: Annotated[str, typer.Option(help="Only those of this customer's counters.")] = "",
    after: Annotated[int, typer.Option(help="Only those that come after this one.")] = 0,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """List the thresholds of limits that were crossed, the oldest first."""

    async def work(services: Services) -> list[Alert]:
        found: list[Alert] = []
        request = ListAlertsRequest(customer_id=customer, after_alert_id=after, page_size=_PER_PAGE)
        async for page in services.pages(services.quota.ListAlerts, request):
            found += page.alerts
        return found

    found = run(data_dir, address, work)
    output = Output(as_json=as_json)
    facts = [MessageToDict(each, preserving_proto_field_name=True) for each in found]
    output.value({"alerts": facts})
    output.table(
        [
            Column("alert", right=True),
            Column("limit", style="cyan"),
            Column("of"),
            Column("reached", right=True),
            Column("used", right=True),
            Column("capacity", right=True),
            Column("seen"),
        ],
        [
            [
                str(each.alert_id),
                each.limit_id,
                each.scope,
                f"{each.threshold} %",
                f"{each.used:,}",
                f"{each.capacity:,}",
                each.create_time.ToJsonString(),
            ]
            for each in found
        ],
        empty="no threshold was crossed",
    )

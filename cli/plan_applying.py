"""Puts what a plan file holds: its meters first, since the plan prices them, then the plan."""

import grpc

from cli.plan_files import PlanFile
from cli.services import CALL_TIMEOUT_S, Answer, Request, Services, new_request_id
from kit.errors import Violation
from tollkeeper.api.meter.v1.meter_service_pb2 import PutMeterRequest
from tollkeeper.api.rating.v1.plan_pb2 import Plan
from tollkeeper.api.rating.v1.rating_service_pb2 import PutPlanRequest
from tollkeeper.errors import parse_rpc_error


async def apply_plan_file(services: Services, file: PlanFile) -> Plan:
    """Put the meters and the plan, and return the plan as it is stored.

    Raises:
        InvalidFile: A service refused fields; each is named with its line and column.
        CommandError: A service refused something else, or did not answer.
    """
    for index, meter in enumerate(file.meters):
        put_meter = PutMeterRequest(request_id=new_request_id(), meter=meter)
        field = ("meter", f"meters[{index}]")
        await _put(services, services.meter.PutMeter, put_meter, file, field)
    put_plan = PutPlanRequest(request_id=new_request_id(), plan=file.plan)
    answer = await _put(services, services.rating.PutPlan, put_plan, file, ("plan", "plan"))
    return answer.plan


async def _put(
    services: Services,
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Answer],
    request: Request,
    file: PlanFile,
    field: tuple[str, str],
) -> Answer:
    """Call a method whose request has, in the service's words and the file's, the same field."""
    try:
        return await method(request, metadata=services.metadata, timeout=CALL_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        problems = parse_rpc_error(error).problems
        of_service, of_file = field
        violations = [
            Violation(of_file + each.field.removeprefix(of_service), each.description)
            for each in problems
            if each.field.startswith(of_service)
        ]
        if violations:
            raise file.refused(violations) from None
        raise services.explain(error, request) from None

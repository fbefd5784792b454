"""The messages of the contract, with small parts left as the bytes they are on the wire.

A gateway sends the same few subjects, dimensions and amounts again and again. Where they stay
bytes, what they say is looked up instead of read, and a part of an answer that was written before
is put in as it is. Amounts, statuses of limits, and the reserves and commits of a session are left
as bytes, beside what `kit.rpc.twins` leaves so everywhere.
"""

from kit.rpc.twins import make_twins
from tollkeeper.api.quota.v1 import quota_pb2, quota_service_pb2

_twin = make_twins(
    "tollkeeper.api.quota.v1",
    (quota_pb2, quota_service_pb2),
    left_as_bytes=("Amount", "LimitStatus", "ReserveRequest", "CommitRequest"),
)

SessionRequest = _twin("SessionRequest")
SessionResponse = _twin("SessionResponse")
GetBalancesResponse = _twin("GetBalancesResponse")
LimitStatus = _twin("LimitStatus")

"""The log of a job, from Cloud Logging.

What a custom job writes is found as gcloud finds it (its source, command_lib/ai/log_util.py, read
on 2026-11-22).
"""

from collections.abc import Iterator

from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
from google.cloud.logging_v2.services.logging_service_v2.transports import (
    LoggingServiceV2GrpcTransport,
)
from google.cloud.logging_v2.types import ListLogEntriesRequest, LogEntry
from google.logging.type.log_severity_pb2 import LogSeverity

from trainer.cloud.job_client import limits, loopback_channel, mapped_errors

_FILTER = (
    '(resource.type="ml_job" OR resource.type="cloudml_job") AND resource.labels.job_id="{job}"'
)


def read(name: str, api_endpoint: str = "") -> Iterator[str]:
    """Reads what a job has written so far, oldest first.

    Args:
        name: the job's full name.
        api_endpoint: of the job service; one on this machine has the log too, others have Google's.

    Yields:
        Lines of time (UTC), worker, severity and text.

    Raises:
        CloudError: the log cannot be read.
    """
    _, project, *_, job = name.split("/")
    channel = loopback_channel(api_endpoint)
    with mapped_errors(project):
        client = LoggingServiceV2Client(
            transport=LoggingServiceV2GrpcTransport(channel=channel) if channel else "grpc"
        )
        request = ListLogEntriesRequest(
            resource_names=[f"projects/{project}"],
            filter=_FILTER.format(job=job),
            order_by="timestamp asc",
        )
        for entry in client.list_log_entries(request, **limits("list_log_entries")):
            yield _line(entry)


def _line(entry: LogEntry) -> str:
    worker = entry.resource.labels.get("task_name", "")
    payload = entry.json_payload
    text = payload.get("message", dict(payload)) if payload else entry.text_payload
    severity = LogSeverity.Name(entry.severity)
    return (
        f"{entry.timestamp:%Y-%m-%d %H:%M:%S}  {worker or 'service'}  {severity}  {text}".rstrip()
    )

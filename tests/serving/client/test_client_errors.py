import grpc
import pytest

from serving.client import errors
from whisker_ml.errors import WhiskerError


class Refusal(grpc.RpcError):
    def __init__(self, code, details):
        self._code, self._details = code, details

    def code(self):
        return self._code

    def details(self):
        return self._details


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.ServerUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.NOT_FOUND, errors.ModelNotFound),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidRequest),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.InvalidRequest),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.ServerUnavailable),
        (grpc.StatusCode.UNAUTHENTICATED, errors.NotAllowed),
        (grpc.StatusCode.PERMISSION_DENIED, errors.NotAllowed),
        (grpc.StatusCode.CANCELLED, errors.ClientError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.ServerError),
        (grpc.StatusCode.INTERNAL, errors.ServerError),
    ],
)
def test_status_becomes_its_type_and_keeps_code_and_details(code, kind):
    error = errors.from_rpc_error(Refusal(code, "why"), "host:1")
    assert type(error) is kind
    assert isinstance(error, WhiskerError)
    assert (error.code, error.details) == (code, "why")
    assert str(error).startswith(f"host:1: {code.name}: why; ")


@pytest.mark.parametrize(
    ("code", "details", "advice"),
    [
        (
            grpc.StatusCode.UNAVAILABLE,
            "last error: Failed to connect to remote host: Connection refused",
            "nothing listens at this address: start the server,",
        ),
        (
            grpc.StatusCode.INVALID_ARGUMENT,
            "Unrecognized servable version label: live",
            "no version has this label: whisker-store list shows the labels",
        ),
    ],
)
def test_frequent_mistake_has_advice_of_its_own(code, details, advice):
    assert f"{details}; {advice}" in str(errors.from_rpc_error(Refusal(code, details), "a:1"))


def test_address_without_a_port_is_told_which_port_was_asked():
    refusal = Refusal(grpc.StatusCode.UNAVAILABLE, "Connection refused")
    said = "no port was given, so 443 was asked: expected host:port, as localhost:8500"
    assert said in str(errors.from_rpc_error(refusal, "localhost"))
    assert said not in str(errors.from_rpc_error(refusal, "localhost:8500"))


def test_text_is_one_line_though_details_span_several():
    error = errors.from_rpc_error(
        Refusal(grpc.StatusCode.INVALID_ARGUMENT, "Matrix size\n\t [[{{node}}]]"), "host:1"
    )
    assert "Matrix size [[{{node}}]]" in str(error)
    assert error.details == "Matrix size\n\t [[{{node}}]]"


def test_status_without_details_still_has_a_text():
    error = errors.from_rpc_error(Refusal(grpc.StatusCode.UNKNOWN, None), "host:1")
    assert error.details == ""
    assert "see the server's log" in str(error)

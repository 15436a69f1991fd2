"""How the client connects: every channel option, with its reason, in one table."""

import json

import grpc

# Retries: gRFC A6 (https://github.com/grpc/proposal/blob/master/A6-client-retries.md). UNAVAILABLE alone says that the
# request did no harm and may work elsewhere or later; prediction and status change nothing on the server, so repeating
# them is safe. HandleReloadConfigRequest is not listed and so never repeated.
_SERVICE_CONFIG = {
    # The default, pick_first, sends everything to one of the addresses that a name has.
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [
                {"service": "tensorflow.serving.PredictionService"},
                {"service": "tensorflow.serving.ModelService", "method": "GetModelStatus"},
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}

# Names and defaults: grpc/grpc, include/grpc/impl/channel_arg_names.h.
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    # -1 is no limit. Received messages are limited to 4 MiB by default, and only the client can lift that.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A request is retried only if it fits in here. The default of 256 KiB is less than many a picture.
    ("grpc.per_rpc_retry_buffer_size", 64 * 1024 * 1024),
    # The default of 120 s leaves a client blind for minutes to a server that has come up.
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
)


def open_channel(server: str) -> grpc.Channel:
    """Opens a channel; the connection itself is made at the first call.

    Args:
        server: ``host:port``, or any gRPC name such as ``dns:///models:8500`` or ``ipv4:10.0.0.1:8500,10.0.0.2:8500``.
    """
    return grpc.insecure_channel(server, options=_OPTIONS)

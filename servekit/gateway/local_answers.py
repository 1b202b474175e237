"""Answers of Envoy's own, in the model server's shape: `{"error": ...}` by REST, a fitting code by gRPC."""

from __future__ import annotations

from typing import Any

from servekit.config.gateway import Gateway

_GRPC = {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}}
_RESOURCE_EXHAUSTED, _DEADLINE_EXCEEDED = 8, 4


def local_replies(gateway: Gateway) -> dict[str, Any]:
    large = f"the request is larger than {gateway.max_request_mib} MiB (gateway.max_request_mib)"
    late = f"the model server did not answer within {gateway.deadline_ms} ms (gateway.deadline_ms)"
    text = {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}}
    return {
        "mappers": [
            _grpc(413, large, _RESOURCE_EXHAUSTED),
            _grpc(504, late, _DEADLINE_EXCEEDED),
            {"filter": _GRPC, "body_format_override": text},
            {"filter": _status(413), "body": {"inline_string": large}},
            {"filter": _status(504), "body": {"inline_string": late}},
        ],
        "body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}},
    }


def _grpc(status: int, text: str, code: int) -> dict[str, Any]:
    header = {"header": {"key": "grpc-status", "value": str(code)}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        "filter": {"and_filter": {"filters": [_GRPC, _status(status)]}},
        "body": {"inline_string": text},
        "body_format_override": {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}},
        "headers_to_add": [header],
    }


def _status(status: int) -> dict[str, Any]:
    value = {"default_value": status, "runtime_key": "servekit.none"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}

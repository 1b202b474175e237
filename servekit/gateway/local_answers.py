"""Answers of Envoy's own, in the model server's shape: `{"error": ...}` by REST, a fitting code by gRPC."""

from __future__ import annotations

from typing import Any

from servekit.config.gateway import Gateway

_GRPC = {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}}
_TEXT = {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}}
_NOT_ROUTED = {"response_flag_filter": {"flags": ["NC"]}}
_DEADLINE_EXCEEDED, _RESOURCE_EXHAUSTED, _UNAVAILABLE = 4, 8, 14

UNLABELLED = "the gateway could not label this request"
"""The Lua filter failed: the last of the routes."""


def local_replies(gateway: Gateway) -> dict[str, Any]:
    large = f"the request is larger than {gateway.max_request_mib} MiB (gateway.max_request_mib)"
    late = f"the model server did not answer within {gateway.deadline_ms} ms (gateway.deadline_ms)"
    return {
        "mappers": [
            _grpc(_status(413), large, _RESOURCE_EXHAUSTED),
            _grpc(_status(504), late, _DEADLINE_EXCEEDED),
            _grpc(_NOT_ROUTED, UNLABELLED, _UNAVAILABLE),
            {"filter": _GRPC, "body_format_override": _TEXT},
            {"filter": _NOT_ROUTED, "body": {"inline_string": UNLABELLED}},
            {"filter": _status(413), "body": {"inline_string": large}},
            {"filter": _status(504), "body": {"inline_string": late}},
        ],
        "body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}},
    }


def _grpc(what: dict[str, Any], text: str, code: int) -> dict[str, Any]:
    header = {"header": {"key": "grpc-status", "value": str(code)}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        "filter": {"and_filter": {"filters": [_GRPC, what]}},
        "body": {"inline_string": text},
        "body_format_override": _TEXT,
        "headers_to_add": [header],
    }


def _status(status: int) -> dict[str, Any]:
    value = {"default_value": status, "runtime_key": "servekit.none"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}

"""The OpenAPI 3.1 document, made from the very table that the server serves."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.control.questions import Nothing
from gateway.control.shapes import ProblemDetails

_PROBLEMS: Final = {
    "400": "The request is wrong; the detail says where.",
    "403": "This user may not use the control interface.",
    "404": "There is no such thing.",
    "503": "The gateway cannot do it now.",
}


@dataclass(frozen=True)
class Operation:
    """One path: what it takes and answers."""

    method: str
    path: str
    name: str
    """``operationId``, and the method of `gateway.control.desk.Desk` that answers."""
    answer: Any
    query: type[msgspec.Struct] = Nothing
    body: type[msgspec.Struct] | None = None
    lines: bool = False
    """The answer is JSON lines, one `answer` each."""
    text: bool = False
    """The answer is plain text."""
    octets: str = ""
    """The answer is a file of this media type, sent as it grows."""
    summary: str = ""


def document(operations: Sequence[Operation], *, version: str) -> dict[str, Any]:
    """The OpenAPI document of the operations."""
    kinds: list[Any] = [ProblemDetails]
    for operation in operations:
        kinds.append(operation.answer)
        kinds.append(operation.query)
        if operation.body is not None:
            kinds.append(operation.body)
    schemas, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    given = iter(schemas)
    problem = next(given)
    paths: dict[str, Any] = {}
    for operation in operations:
        answer, query = next(given), next(given)
        body = next(given) if operation.body is not None else None
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            operation, answer, components[_name(query)], body, problem
        )
    # Parameters stand with their operation.
    for operation in operations:
        components.pop(operation.query.__name__, None)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Crosspoint control interface",
            "version": version,
            "description": "HTTP over a unix socket. Who may connect is decided by the kernel's "
            "word on the peer: root, the daemon's own user, members of the box's group.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "unix:/run/crosspoint/control.sock"}],
        "paths": paths,
        "components": {"schemas": dict(sorted(components.items()))},
    }


def _operation(
    operation: Operation,
    answer: dict[str, Any],
    query: dict[str, Any],
    body: dict[str, Any] | None,
    problem: dict[str, Any],
) -> dict[str, Any]:
    parameters = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
        for part in operation.path.split("/")
        if part.startswith("{")
    ]
    required = query.get("required", [])
    parameters += [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in query.get("properties", {}).items()
    ]
    media = "application/jsonl" if operation.lines else "application/json"
    media = operation.octets or ("text/plain" if operation.text else media)
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {
            "200": {
                "description": inspect.getdoc(operation.answer) or "The answer."
                if isinstance(operation.answer, type)
                else "The answer.",
                "content": {media: {"schema": answer}},
            },
            **{
                status: {
                    "description": text,
                    "content": {"application/problem+json": {"schema": problem}},
                }
                for status, text in _PROBLEMS.items()
            },
        },
    }
    if parameters:
        found["parameters"] = parameters
    if body is not None:
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body}},
        }
    return found


def _name(reference: dict[str, Any]) -> str:
    return str(reference.get("$ref", "")).rpartition("/")[2]

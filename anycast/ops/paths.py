"""Every path there is, in two tables: the routers are made from them, and so are the OpenAPI documents.

`READ` is what the ops process answers, `CONTROL` what the agent itself answers on its control socket.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from anycast.core.fleet.codec import PIECES
from anycast.core.maintenance.clocks import Expiry
from anycast.core.values.fates import Fate, Way

JSON = "application/json"
TEXT = "text/plain"
PAGE = "text/html"
STREAM = "text/event-stream"

DEADLINE = "X-Anycast-Deadline"
"""Header of a command: the instant of CLOCK_MONOTONIC after which it must not be carried out any more."""

Schema = Mapping[str, Any]


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`content`: media type to schema."""

    about: str
    content: Mapping[str, Schema]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    name: str
    about: str
    schema: Schema
    place: str = "query"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`handler`: the name of the method that answers, in the class that makes a router. GET takes HEAD too."""

    path: str
    handler: str
    about: str
    answers: Mapping[int, Answer]
    method: str = "GET"
    parameters: tuple[Parameter, ...] = ()
    strict: bool = False  # other query parameters are refused
    body: Schema | None = None
    body_required: bool = False


ERROR: Schema = {
    "type": "object",
    "description": "Why it was refused, in words.",
    "properties": {"error": {"type": "string", "description": "One line for people."}},
    "required": ["error"],
    "additionalProperties": False,
}


def _error(about: str) -> Answer:
    return Answer(about=about, content={JSON: _ref("Error")})


def _either(about: str, schema: Schema) -> Answer:
    """Text for people, or JSON if the client asks for it."""
    return Answer(about=about, content={TEXT: {"type": "string"}, JSON: schema})


_CHECKED: Schema = {
    "type": "object",
    "properties": {
        "ok": {"type": "boolean", "description": "As the status code."},
        "reasons": {"type": "array", "items": {"type": "string"}, "description": "What is wrong."},
    },
    "required": ["ok", "reasons"],
    "additionalProperties": False,
}
_NAME = Parameter(
    name="name",
    about="The name of a VIP in the configuration.",
    schema={"type": "string", "minLength": 1},
    place="path",
)
_BUSY = _error("Too many connections, or too many streams.")
_NO_VIP = _error("There is no such VIP.")
_NO_PARAMETER = _error("A parameter is wrong or unknown.")
_BODY_TIME = {
    400: _error("The body is wrong."),
    408: _error("The body did not come in time."),
    413: _error("The body is too large."),
}
_VIP = "One VIP as in the status."

_LIVEZ = Operation(
    path="/livez",
    handler="get_livez",
    about="Whether the agent's engine runs. Depends on neither real servers nor BGP.",
    answers={200: _either("It runs.", _CHECKED), 503: _either("It hangs.", _CHECKED)},
)
_OPENAPI = Operation(
    path="/openapi.json",
    handler="get_openapi",
    about="This document.",
    answers={200: Answer(about="OpenAPI 3.1.", content={JSON: {"type": "object"}})},
)
_DEADLINE = Parameter(
    name=DEADLINE,
    about="The instant of CLOCK_MONOTONIC, in seconds, after which the command must not be carried out any more.",
    schema={"type": "number", "minimum": 0},
    place="header",
)
_LATE = {504: _error("The deadline of the command had passed: nothing was changed, and nothing will be.")}

READ: tuple[Operation, ...] = (
    Operation(
        path="/",
        handler="get_page",
        about="The status as a page for people: of thousands of VIPs a hundred at a time, what is wrong first.",
        parameters=(
            Parameter(
                name="q",
                about=(
                    "Which VIPs: words that must all be found in a name, an address, a real server or a state; `vip:`, "
                    "`address:`, `server:` or `state:` before a word names its place. `state:wrong` is whatever wants "
                    "looking after. What is beyond 200 characters is left out."
                ),
                schema={"type": "string"},
            ),
            Parameter(
                name="page",
                about="Which hundred of them, from 1 on. After the last there is the last; what is no number is the first.",
                schema={"type": "string"},
            ),
            Parameter(
                name="sort",
                about=(
                    "What is first: what is `wrong`, or the most new `connections` or `bits` that come in; or all by `name`. "
                    "Anything else is `wrong`."
                ),
                schema={"type": "string", "default": "wrong"},
            ),
        ),
        answers={200: Answer(about="The page.", content={PAGE: {"type": "string"}})},
    ),
    _LIVEZ,
    Operation(
        path="/healthz",
        handler="get_livez",
        about="The same as /livez.",
        answers={200: _either("It runs.", _CHECKED), 503: _either("It hangs.", _CHECKED)},
    ),
    Operation(
        path="/readyz",
        handler="get_readyz",
        about="Whether the node can do its work. A node in maintenance can.",
        answers={
            200: _either("It can.", _CHECKED),
            503: _either("It cannot, and why.", _CHECKED),
        },
    ),
    Operation(
        path="/status",
        handler="get_status",
        about="Everything the node knows.",
        answers={200: Answer(about="The status document.", content={JSON: _ref("Status")})},
    ),
    Operation(
        path="/fleet",
        handler="get_fleet",
        about=(
            "What this node says of itself to the other nodes of its fleet. At the unix socket, and where `fleet.listen` says; "
            "what is asked there needs the fleet's token."
        ),
        parameters=(
            Parameter(
                name="If-None-Match",
                about="The ETag of the answer that whoever asks has.",
                schema={"type": "string"},
                place="header",
            ),
            Parameter(
                name=PIECES,
                about="Digests of the pieces of VIPs that are known already, with commas between them: these are left out.",
                schema={"type": "string"},
                place="header",
            ),
        ),
        answers={
            200: Answer(about="The document.", content={JSON: {"type": "object"}}),
            304: Answer(about="It has not changed.", content={}),
            404: _error("The node has no fleet, or is not asked where its fleet asks."),
        },
    ),
    Operation(
        path="/fleet/vips/{name}",
        handler="get_fleet_tables",
        about=(
            "The tables of one VIP, for a node whose own are others: real servers and weights, as the kernel has them. Where "
            "/fleet is."
        ),
        parameters=(_NAME,),
        answers={
            200: Answer(about="The tables.", content={JSON: {"type": "object"}}),
            404: _error("There is no such VIP, or it is not asked where its fleet asks."),
        },
    ),
    Operation(
        path="/fleet/headroom",
        handler="get_fleet_headroom",
        about=(
            "How this node stands to the limit of its capacity, now and with nodes gone, as `headroom` of the status has it for "
            "each node. At the unix socket alone."
        ),
        answers={
            200: Answer(about="The figures.", content={JSON: {"type": "object"}}),
            404: _error("The node has no fleet, asks nobody, or is not asked at its unix socket."),
        },
    ),
    Operation(
        path="/fleet/view",
        handler="get_fleet_view",
        about=(
            "All nodes of the fleet as this one sees them: what they announce and carry, now and with one node less, who is out "
            "for maintenance, and whether their tables are the same."
        ),
        answers={
            200: Answer(about="The view.", content={JSON: _ref("Fleet")}),
            404: _error("The configuration has no `fleet:`."),
        },
    ),
    Operation(
        path="/metrics",
        handler="get_metrics",
        about="Prometheus metrics, packed if Accept-Encoding takes gzip.",
        parameters=(
            Parameter(
                name="servers",
                about="`no`: without the series of each real server, of which there are most.",
                schema={"type": "string", "enum": ["yes", "no"], "default": "yes"},
            ),
        ),
        answers={
            400: _NO_PARAMETER,
            200: Answer(
                about="In the format that Accept asks for.",
                content={TEXT: {"type": "string"}, "application/openmetrics-text": {"type": "string"}},
            ),
        },
    ),
    Operation(
        path="/vips/{name}",
        handler="get_vip",
        about="Whether this node announces the VIP to a router: by the status code, with the reason in the body.",
        parameters=(_NAME,),
        answers={
            200: _either("It is announced.", _ref("Status.vip")),
            404: _NO_VIP,
            503: _either("It is not.", _ref("Status.vip")),
        },
    ),
    Operation(
        path="/vips/{name}/why",
        handler="get_why",
        about="Why the VIP is announced or not, from its checks to the BGP sessions, and what would change it.",
        parameters=(_NAME,),
        answers={200: _either("The explanation.", _ref("Why")), 404: _NO_VIP},
    ),
    Operation(
        path="/events",
        handler="get_events",
        about=(
            "Past and new events. As server-sent events (the default) the answer does not end: it has each event with "
            "its number, by which Last-Event-ID continues, and a comment at least every 15 s. As JSON it is the events "
            "in memory. A reader that is too slow is disconnected."
        ),
        strict=True,
        parameters=(
            Parameter(
                name="after",
                about="Begin after the event with this number. Without it a stream begins with the next event.",
                schema={"type": "integer", "minimum": 0, "maximum": 2**53 - 1},
            ),
            Parameter(
                name="since",
                about="Only events since this time, in seconds since the epoch.",
                schema={"type": "number", "minimum": 0, "maximum": 2**53 - 1},
            ),
            Parameter(
                name="vip",
                about="Only events that name this VIP, or concern the whole node.",
                schema={"type": "string", "minLength": 1},
            ),
            Parameter(
                name="Last-Event-ID",
                about="As `after`, which it overrides.",
                schema={"type": "integer", "minimum": 0, "maximum": 2**53 - 1},
                place="header",
            ),
        ),
        answers={
            200: Answer(
                about="Events, the oldest first.", content={STREAM: {"type": "string"}, JSON: _ref("Events")}
            ),
            400: _NO_PARAMETER,
            404: _NO_VIP,
            503: _BUSY,
        },
    ),
    _OPENAPI,
)

CONTROL: tuple[Operation, ...] = (
    _LIVEZ,
    _OPENAPI,
    Operation(
        path="/summary",
        handler="get_summary",
        about="One line about the node, and the revision of the facts that the ops process must have to show them.",
        answers={
            200: Answer(
                about="The line.",
                content={
                    JSON: {
                        "type": "object",
                        "properties": {
                            "summary": {"type": "string", "description": "One line for people."},
                            "revision": {"type": "integer", "description": "For X-Anycast-Revision."},
                        },
                        "required": ["summary", "revision"],
                        "additionalProperties": False,
                    }
                },
            )
        },
    ),
    Operation(
        path="/maintenance",
        handler="get_maintenance",
        about="What is in maintenance.",
        answers={200: Answer(about="Every maintenance in force.", content={JSON: _ref("Maintenance")})},
    ),
    Operation(
        path="/maintenance",
        method="POST",
        handler="post_maintenance",
        about="Take the node, a VIP or a real server out, or bring it back.",
        parameters=(_DEADLINE,),
        body=_ref("MaintenanceRequest"),
        body_required=True,
        answers={
            200: Answer(about="What happens now.", content={JSON: {"type": "object"}}),
            202: Answer(
                about="The other nodes are being asked; send it again with `turn` and `asked_for_s`.",
                content={JSON: {"type": "object"}},
            ),
            404: _error("There is no such thing."),
            409: _error(
                "A service cannot do without it, the others have no room for what it carries, or the other nodes do not let it go."
            ),
            **_BODY_TIME,
            **_LATE,
        },
    ),
    Operation(
        path="/reload",
        method="POST",
        handler="post_reload",
        about="Apply the configuration file as it is now.",
        parameters=(_DEADLINE,),
        body=_ref("ReloadRequest"),
        answers={
            200: Answer(about="It is in force.", content={JSON: _ref("Reload")}),
            422: Answer(
                about="It has mistakes, or removes too much; the previous configuration stays in force.",
                content={JSON: _ref("Reload")},
            ),
            **_BODY_TIME,
            **_LATE,
        },
    ),
    Operation(
        path="/reload/plan",
        method="POST",
        handler="post_plan",
        about=(
            "What a reload would do, with the file as it is now or with a configuration that is sent. Nothing is "
            "changed. The body may have 4 MiB."
        ),
        parameters=(_DEADLINE,),
        body=_ref("PlanRequest"),
        answers={
            200: Answer(about="A reload would be applied.", content={JSON: _ref("Plan")}),
            422: Answer(
                about="A reload would be refused: it has mistakes, or removes too much.",
                content={JSON: _ref("Plan")},
            ),
            **_BODY_TIME,
            **_LATE,
        },
    ),
    Operation(
        path="/reload/confirm",
        method="POST",
        handler="post_confirm",
        about="Keep the configuration that is on trial.",
        parameters=(_DEADLINE,),
        body={"type": "object", "maxProperties": 0},
        answers={
            200: Answer(about="It stays.", content={JSON: _ref("Reload")}),
            409: _error("None is on trial."),
            **_BODY_TIME,
            **_LATE,
        },
    ),
    Operation(
        path="/reload/undo",
        method="POST",
        handler="post_undo",
        about="Go back to the configuration before the last reload, or before the trial.",
        parameters=(_DEADLINE,),
        body={"type": "object", "maxProperties": 0},
        answers={
            200: Answer(about="It is in force again.", content={JSON: _ref("Reload")}),
            409: _error("There is none."),
            422: Answer(about="The agent ends; nothing was changed.", content={JSON: _ref("Reload")}),
            **_BODY_TIME,
            **_LATE,
        },
    ),
)


@cache
def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of `status`, `why`, `event` or `fleet`, as it stands beside this file."""
    text = files("anycast.ops").joinpath(f"{name}.schema.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def openapi(routes: Iterable[Operation], *, version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "anycast",
            "version": version,
            "description": 'The ops surface of one node. Errors are JSON: `{"error": "..."}`.',
        },
        "paths": paths,
        "components": {"schemas": _components()},
    }


def _operation(route: Operation) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.about.partition(". ")[0].rstrip("."),
        "description": route.about,
        "responses": {
            str(code): {
                "description": answer.about,
                "content": {kind: {"schema": schema} for kind, schema in answer.content.items()},
            }
            for code, answer in sorted(route.answers.items())
        },
    }
    if route.parameters:
        operation["parameters"] = [
            {
                "name": one.name,
                "in": one.place,
                "required": one.place == "path",
                "description": one.about,
                "schema": one.schema,
            }
            for one in route.parameters
        ]
    if route.body is not None:
        operation["requestBody"] = {
            "required": route.body_required,
            "content": {JSON: {"schema": route.body}},
        }
    return operation


def _components() -> dict[str, Any]:
    found: dict[str, Any] = {"Error": ERROR}
    for name, title in (("status", "Status"), ("why", "Why"), ("event", "Event"), ("fleet", "Fleet")):
        found |= dict(_lifted(title, schema(name)))
    found["Events"] = {
        "type": "object",
        "properties": {
            "events": {"type": "array", "items": _ref("Event")},
            "newest": {"type": "integer", "description": "The number of the newest event there is; 0: none."},
        },
        "required": ["events", "newest"],
        "additionalProperties": False,
    }
    found["Maintenance"] = {
        "type": "object",
        "properties": {"maintenance": {"type": "array", "items": _ref("Status.maintenance")}},
        "required": ["maintenance"],
        "additionalProperties": False,
    }
    found["MaintenanceRequest"] = {
        "type": "object",
        "properties": {
            "scope": {"type": "string", "description": "Empty: the node. A VIP, or POOL/SERVER."},
            "on": {"type": "boolean"},
            "reason": {"type": "string", "maxLength": 200, "description": "One printable line."},
            "force": {
                "type": "boolean",
                "description": "Even if a service then falls below its quorum, or others have too little room; and without "
                "asking the other nodes.",
            },
            "until": {
                "type": "number",
                "description": "When it ends by itself, in seconds since the epoch: within 366 days. With `on`.",
            },
            "for_s": {
                "type": "number",
                "minimum": 1,
                "maximum": 366 * 86400,
                "description": "When it ends by itself, in seconds from now. With `on`, and without `until`.",
            },
            "on_expiry": {
                "type": "string",
                "enum": list(Expiry),
                "description": "Whether it then goes back into service, or stays in maintenance and is overdue.",
            },
            "now": {"type": "boolean", "description": "Withdraw its routes without a drain. With `on`."},
            "temporary": {
                "type": "boolean",
                "description": "Only until the agent ends, and not kept on disk; for the whole node only. With `on`.",
            },
            "wait_turn": {
                "type": "boolean",
                "description": "Queue if the other nodes do not let it go now. With `on`.",
            },
            "turn": {
                "type": "integer",
                "minimum": 1,
                "maximum": 2**53,
                "description": "The number of the turn, as the answer 202 gave it. Without `on`: it is given up.",
            },
            "asked_for_s": {
                "type": "number",
                "minimum": 0,
                "description": "For how long it has been asked for, in seconds. With `turn`.",
            },
        },
        "required": ["scope", "on"],
        "additionalProperties": False,
    }
    texts = {"type": "array", "items": {"type": "string"}}
    found["ReloadRequest"] = {
        "type": "object",
        "properties": {
            "allow_removal": {"type": "boolean", "description": "Even if it removes much."},
            "confirm_within_s": {
                "type": "number",
                "minimum": 1,
                "maximum": 86400,
                "description": "It goes back after so many seconds, unless it is confirmed.",
            },
        },
        "additionalProperties": False,
    }
    found["PlanRequest"] = {
        "type": "object",
        "properties": {
            "allow_removal": {"type": "boolean", "description": "Even if it removes much."},
            "texts": {
                "type": "string",
                "contentEncoding": "base64",
                "description": "Another configuration than the agent's file, as `anycast check` packs it.",
            },
            "node": {"type": "string", "description": "The node that is meant: refused if it is another."},
        },
        "additionalProperties": False,
    }
    counts = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}
    number = {"type": "integer", "minimum": 0}
    text = {"type": "string"}
    route = {"prefix": text, "vip": text, "way": {"enum": list(map(str, Way))}, "what": texts}
    server = {
        "server": text,
        "address": text,
        "port": number,
        "fate": {"enum": list(map(str, Fate))},
        "goes": {"type": "boolean"},
        "connections": number,
        "what": texts,
    }
    service = {
        "service": text,
        "vip": text,
        "name": text,
        "change": {"enum": ["added", "removed", "changed"]},
        "connections": number,
        "servers": _array(server),
        "more_servers": number,
    }
    session = {"neighbor": text, "change": {"enum": ["added", "removed", "changed"]}, "what": texts}
    plan = {
        "counts": counts,
        "routes": _array(route),
        "more_routes": number,
        "services": _array(service),
        "more_services": number,
        "sessions": _array(session),
        "waits": {"anyOf": [_object({"who": text, "how": text}), {"type": "null"}]},
    }
    found["Plan"] = _object(
        {
            "ok": {"type": "boolean"},
            "changes": texts,
            "warnings": texts,
            "problems": texts,
            "plan": {"anyOf": [_object(plan), {"type": "null"}]},
        }
    )
    found["Reload"] = {
        "type": "object",
        "properties": {
            "ok": {"type": "boolean"},
            "changes": texts,
            "warnings": texts,
            "problems": texts,
            "confirm_s": {
                "type": ["number", "null"],
                "description": "Seconds until it goes back, if it is on trial.",
            },
            "revision": {"type": "integer", "description": "For X-Anycast-Revision."},
        },
        "required": ["ok", "changes", "warnings", "problems", "confirm_s", "revision"],
        "additionalProperties": False,
    }
    return found


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    """All of them are there, and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _array(of: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": _object(of)}


def _lifted(title: str, body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """A schema and its definitions, with the references between them as they are in an OpenAPI document."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: one.replace("#/$defs/", f"#/components/schemas/{title}.")
                if name == "$ref" and isinstance(one, str)
                else moved(one)
                for name, one in value.items()
            }
        return [moved(one) for one in value] if isinstance(value, list) else value

    top = {name: one for name, one in body.items() if name not in ("$defs", "$schema", "$id")}
    yield title, moved(top)
    for name, one in body.get("$defs", {}).items():
        yield f"{title}.{name}", moved(one)

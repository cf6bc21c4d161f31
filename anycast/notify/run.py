"""One run of a hook, command or webhook."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, assert_never

from anycast.core.hooks import Command, Hook, Webhook
from anycast.notify import command, webhook
from anycast.notify.outcome import Outcome


async def run(hook: Hook, told: Mapping[str, Any], *, agent: str) -> Outcome:
    """Tell it once. Over in little more than `hook.timeout`. `agent`: who says so, with the version."""
    body = json.dumps(told).encode()
    match hook.action:
        case Command():
            return await command.run(hook.action, told, body, hook.timeout)
        case Webhook():
            return await webhook.run(hook.action, told, body, hook.timeout, agent=agent)
        case _:
            assert_never(hook.action)

"""Hooks: each a command or a webhook."""

from __future__ import annotations

from urllib.parse import urlsplit

from anycast.config.assemble.context import Context
from anycast.config.problem import Path
from anycast.config.schema import file as schema
from anycast.core.hooks import VERDICT, Action, Command, Hook, Secret, Webhook, is_exposed

MOST = 16  # each has a thread of its own
RETRIES = 4
_OF_WEBHOOKS = (
    "token_file", "token_env", "secret_file", "secret_env", "headers", "headers_file", "headers_env", "ca", "retries",
)  # fmt: skip
_URLS = ("url", "url_file", "url_env")


def hooks(context: Context) -> tuple[Hook, ...]:
    written = context.written("hooks")
    if len(written) > MOST:
        context.say(("hooks",), f"there are {len(written)} hooks", f"write {MOST} at most", key=True)
    found = [_hook(context, ("hooks", name), name, hook) for name, hook in context.file.hooks.items()]
    return tuple(hook for hook in found if hook is not None)


def _hook(context: Context, path: Path, name: str, written: schema.Hook) -> Hook | None:
    if written.events == []:
        context.say_missing((*path, "events"), "there is no event in it", "write one, or remove the line")
    action = _action(context, path, written)
    if action is None:
        return None
    events = frozenset[str]().union(*written.events) if written.events else frozenset({VERDICT})
    return Hook(
        name=name,
        action=action,
        events=events,
        timeout=written.timeout,
        limit=written.limit,
        per=written.per,
    )


def _action(context: Context, path: Path, written: schema.Hook) -> Action | None:
    urls = [name for name in _URLS if getattr(written, name) is not None]
    for name in urls[1:]:
        context.say((*path, name), f"{urls[0]} is written too", "keep one of them", key=True)
    if not urls and written.argv is None:
        if context.whole(*((*path, name) for name in (*_URLS, "argv"))):
            context.say(path, "it says neither what to run nor whom to ask", "write argv or url", key=True)
        return None
    if urls and written.argv is not None:
        context.say((*path, "argv"), "a hook is a command or a webhook", "remove argv or url", key=True)
        return None
    if written.argv is not None:
        return _command(context, path, written, written.argv)
    return _webhook(context, path, written)


def _command(context: Context, path: Path, written: schema.Hook, argv: list[str]) -> Command | None:
    for name in _OF_WEBHOOKS:
        if name in written.model_fields_set:
            context.say((*path, name), "a command has no such thing", "remove the line, or use url", key=True)
    if not argv:
        context.say_missing((*path, "argv"), "there is no program in it", "write its absolute path")
        return None
    if not argv[0].startswith("/"):
        context.say(
            (*path, "argv", 0), "the program is not an absolute path", "write one: there is no PATH to search"
        )
        return None
    context.need((*path, "argv", 0), argv[0], "hook")
    return Command(argv=tuple(argv))


def _webhook(context: Context, path: Path, written: schema.Hook) -> Webhook:
    url = written.url or ""
    parts = urlsplit(url)
    url_from = (
        secret(context, path, "url", written.url_file, written.url_env) if written.url is None else None
    )
    token = secret(context, path, "token", written.token_file, written.token_env)
    if written.ca is not None and parts.scheme == "http":
        what = "nothing is verified over http"
        context.say((*path, "ca"), what, "remove the line, or write an https URL", key=True)
    if token is not None and is_exposed(url):
        what = "the token would be readable by everybody on the network"
        context.say((*path, "url"), what, "write an https URL, or remove the token")
    for name in written.headers:
        if name.lower() in _OURS or (token is not None and name.lower() == "authorization"):
            context.say((*path, "headers", name), "this header is ours", "remove the line", key=True)
    context.need((*path, "ca"), written.ca, "authority")
    return Webhook(
        url=url,
        host=parts.netloc or str(url_from),
        url_from=url_from,
        token=token,
        signature=secret(context, path, "secret", written.secret_file, written.secret_env),
        headers=tuple(written.headers.items()),
        headers_from=secret(context, path, "headers", written.headers_file, written.headers_env),
        ca=written.ca,
        retries=RETRIES if written.retries is None else written.retries,
    )


_OURS = ("content-type", "content-length", "transfer-encoding", "host", "connection", "x-anycast-signature")


def secret(context: Context, path: Path, name: str, file: str | None, variable: str | None) -> Secret | None:
    """Where a secret is kept, by the two lines that can say it."""
    if file is not None and variable is not None:
        what = f"there is a {name}_file too"
        context.say((*path, f"{name}_env"), what, "remove one of the two lines", key=True)
    context.need((*path, f"{name}_file"), file, "secret")
    return Secret(file=file or "", variable=variable or "") if file or variable else None

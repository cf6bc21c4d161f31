"""TCP, HTTP and HTTPS checks by the thousand per second: an epoll of our own inside the event loop, no task per check.

`sweep` moves the checks on, `runs` says what each does with its connection, `response` reads HTTP,
`sockets` keeps sockets for the next check, `agenda` keeps instants in order, `alarm` waits for the first; `once` is one run by itself.
"""

r"""The process in which Math-Verify runs, for `modicum.testtime.integrations.math_verify`.

Run by its path, with the number of a connection's file descriptor and a memory limit; imports
nothing of this package. Answers JSON messages, one at a time, until the other side hangs up. It
knows no time limit but one: a request that its starter did not survive to end is ended by an alarm.
"""

import json
import logging
import signal
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any

Handler = Callable[[dict[str, Any]], Any]

_CACHED_ANSWERS = 4096


def _limit_memory(megabytes: int) -> None:
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = megabytes * 2**20
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (ImportError, ValueError, OSError):
        # Some systems have no such limit; the time limit remains.
        pass


def _handlers() -> dict[str, Handler]:
    """Import Math-Verify and return what can be asked."""
    from math_verify import parse, verify
    from math_verify.grader import get_pct_val
    from sympy import Rational, latex  # type: ignore[import-untyped]

    @lru_cache(maxsize=_CACHED_ANSWERS)
    def expressions(answer: str) -> tuple[Any, ...]:
        """Read a bare answer; in a box all of it counts, and not a part that looks like one."""
        answer = answer.strip().rstrip(".")
        for text in (f"\\boxed{{{answer}}}", f"${answer}$", answer):
            if found := parse(text, parsing_timeout=None):
                return tuple(found)
        return ()

    def written(expression: Any, text: str) -> str:
        """Return an answer that reads as this expression, as it was written where possible."""
        if get_pct_val(expression) is not None and "%" not in text:
            text += "\\%"
        found = list(expressions(text))
        if found and verify(expression, found, timeout_seconds=None):
            return text
        return str(latex(expression))

    def read(request: dict[str, Any]) -> str | None:
        found = parse(request["text"], parsing_timeout=None)
        if not found:
            return None
        # The last entry is the text that was matched; before it is its expression, if it has one.
        text = str(found[-1]).strip().rstrip(".")
        return (written(found[0], text) if len(found) > 1 else text) or None

    def equal(request: dict[str, Any]) -> bool:
        gold, target = expressions(request["a"]), expressions(request["b"])
        if gold and target and isinstance(gold[0], Rational) and isinstance(target[0], Rational):
            # What the comparison would come to, but it would simplify the difference first.
            return bool(gold[0] == target[0])
        options = request["options"]
        return bool(verify(list(gold), list(target), timeout_seconds=None, **options))

    return {"read": read, "equal": equal}


def _reply(handler: Handler, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": handler(request)}
    except Exception:
        return {"error": traceback.format_exc(limit=3)}


def main(descriptor: int, megabytes: int) -> None:
    """Serve a connection.

    Parameters
    ----------
    descriptor
        Its file descriptor, open in this process.
    megabytes
        Most address space to use, MiB.
    """
    connection = Connection(descriptor)
    # Ctrl-C reaches the whole process group; who started this decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_memory(megabytes)
    logging.disable(logging.CRITICAL)
    try:
        handlers = _handlers()
    except Exception:
        connection.send_bytes(json.dumps({"error": traceback.format_exc()}).encode())
        return
    connection.send_bytes(json.dumps({"value": "ready"}).encode())
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        # Unhandled, the alarm ends the process, whatever it is in the middle of.
        signal.setitimer(signal.ITIMER_REAL, request["alarm_s"])
        reply = _reply(handlers[request["ask"]], request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            connection.send_bytes(json.dumps(reply).encode())
        except OSError:
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

"""Runs every `check_*` function of a script against the server that the command line names, each with a line of its own."""

import asyncio
import inspect
import signal
import sys
import time
import traceback

CHAT = "smollm2:135m"
EMBEDDING = "all-minilm"
AGENT = "agent:task-assignment-coordinator"

# Long enough for a loaded machine; what takes longer has found a fault.
PATIENCE_S = 120
ALL_S = 600

SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "size": {"type": "integer", "minimum": 0, "maximum": 9},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 2},
    },
    "required": ["colour", "size", "tags"],
    "additionalProperties": False,
}


def url():
    return sys.argv[1]


def fits(value):
    """Fails unless `value` keeps to the schema above."""
    assert set(value) == {"colour", "size", "tags"}, value
    assert value["colour"] in ("red", "green", "blue") and value["size"] in range(10), value
    assert len(value["tags"]) <= 2 and all(len(tag) <= 8 for tag in value["tags"]), value


def raises(kind, call, *arguments, **named):
    """The error of this kind that the call ends with."""
    try:
        answer = call(*arguments, **named)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} but {answer!r}")


def patience(alone):
    """Seconds that a call may take after others have left, if it takes so many alone. A model that goes on for nobody takes longer."""
    return 10 * alone + 15


def timed(call):
    began = time.monotonic()
    call()
    return time.monotonic() - began


def soon(call, alone):
    """Fails if the call takes much longer than it did alone: whoever left before has kept the model busy."""
    took = timed(call)
    assert took < patience(alone), f"{took:.1f} s after a client left, {alone:.1f} s alone"


def run(checks):
    """Runs the functions among `checks` whose names begin with `check_`; ends the process with what came of them."""
    signal.alarm(ALL_S)
    failed = 0
    for name, check in list(checks.items()):
        if not name.startswith("check_"):
            continue
        began, verdict = time.monotonic(), "ok"
        try:
            if inspect.iscoroutinefunction(check):
                asyncio.run(check())
            else:
                check()
        except Exception:
            verdict, failed = "FAILED", failed + 1
            traceback.print_exc(file=sys.stdout)
        print(f"{verdict} {name[6:]} ({time.monotonic() - began:.1f} s)", flush=True)
    sys.exit(1 if failed else 0)

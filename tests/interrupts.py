"""Ctrl-C at any line of some modules."""

import sys


class Interrupt(BaseException):
    """As a KeyboardInterrupt is, but one that stops no test run."""


def interrupted(call, line, *modules):
    """Whether a call was interrupted before it had run so many lines of these modules."""
    files = {module.__file__ for module in modules}

    def trace(frame, event, _):
        nonlocal line
        if frame.f_code.co_filename not in files:
            return None
        line -= event == "line"
        if line == 0:
            raise Interrupt
        return trace

    sys.settrace(trace)
    try:
        call()
    except Interrupt:
        return True
    finally:
        sys.settrace(None)
    return False

"""What a command can't do, in one line."""


class CommandError(Exception):
    """Printed without a traceback, and the exit status is 2. The text says what to do."""


def one_line(error):
    """The first line of what an exception says, after its class."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__

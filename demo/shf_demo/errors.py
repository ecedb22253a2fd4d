"""What the demo tells its reader when it cannot go on: one line that says what to do, not a traceback."""


class DemoError(Exception):
    """The demo cannot go on; the message says what is missing or what did not come up."""

"""The one exception that a user is meant to read; it lies under every other module."""


class UserError(ValueError):
    """A mistake that the user can correct: shown as one line, exit code 2, no traceback.

    The message reads `<config path or function>: expected <constraint>, got <value>; <what to do>`.
    """

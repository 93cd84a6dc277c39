"""The one error a user is meant to read."""


class UserError(Exception):
    """What is wrong, where, and the way out, in one sentence. Shown without a traceback."""

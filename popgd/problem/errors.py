"""Input that cannot be used."""


class SettingError(ValueError):
    """A setting that cannot be used: one line that says what came, what was wanted and what to
    do.
    """


class TooLarge(SettingError):
    """A setting that this machine has no memory for; another may have."""

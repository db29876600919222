"""The one exception that a stage shows to its user as a single line."""


class PipelineError(Exception):
    """A mistake in the user's input: one line that says file, row or id, what was expected, what to do."""

"""The errors that a user can cause or meet, each with the exit code that the command line gives it.

A message names the value, the place and the remedy in one or two lines; the command line prints it without a traceback.
"""


class SemclipEvalError(Exception):
    """Base of every error whose message is meant for the user; `exit_code` is what the command line returns."""

    exit_code = 2


class ConfigError(SemclipEvalError):
    """A config value, a name or a path on the command line is wrong."""


class NotApplicable(ConfigError):
    """What was asked for does not exist here, and there is nothing to mend: in a sweep it is no failure.

    The oracle's crop on a benchmark without boxes; a selector that reads of the model what it does not offer.
    """


class DataError(SemclipEvalError):
    """A data file is missing, malformed or not what its benchmark publishes."""


class ModelError(SemclipEvalError):
    """Weights, a tokenizer or a processor could not be read or do not fit together."""


class RunFailed(SemclipEvalError):
    """The command ran to its end and the result is a failure (error rate, regression, refused comparison)."""

    exit_code = 1


class Terminated(KeyboardInterrupt):
    """SIGTERM: the machine is wanted back. Handled like Ctrl-C wherever that is, with an exit code of its own."""


class QuestionError(Exception):
    """One question cannot be asked (its image is missing, its box lies outside, its views exceed the context).

    The runner turns it, like any other exception of a stage, into a record with `status="error"`; it never becomes an
    answer.
    """


class NotFiniteError(QuestionError):
    """A component gave NaN or an infinite number where a finite one belongs."""

"""What can go wrong, as one tree.

    MangaAssistError
    ├── BadInput          a person's file, setting or request is wrong; the message says where and what to do
    ├── MissingEvidence   a figure was asked for that nothing has measured
    ├── DamagedArtifact   stored bytes are not what their manifest says, or are of a kind that is never loaded
    ├── Conflict          somebody else changed the state first; read it again and decide anew
    └── Unavailable       a model, package or provider cannot be had here

Every message is one line that a person can act on; the command line prints it without a traceback.
"""

import functools
from typing import Any


class MangaAssistError(Exception):
    """Base of every error that a person is meant to read."""


class BadInput(MangaAssistError):
    """A file, setting or request cannot be used.

    Args:
        problem: what is wrong, in one clause.
        where: the file, setting or field, with row or line where known.
        remedy: the next thing to do.
    """

    def __init__(self, problem: str, *, where: str, remedy: str) -> None:
        self.problem, self.where, self.remedy = problem, where, remedy
        super().__init__(f"{where}: {problem}. {remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets it come back from a worker process: an exception is otherwise built again from its message alone."""
        return functools.partial(type(self), where=self.where, remedy=self.remedy), (self.problem,)


class MissingEvidence(MangaAssistError):
    """A figure was asked for that nothing has measured; never read as zero."""


class DamagedArtifact(MangaAssistError):
    """Stored bytes differ from their manifest, escape their folder, or are of a refused kind."""


class Conflict(MangaAssistError):
    """A compare-and-swap lost: the state is not the one the caller decided on."""


class Unavailable(MangaAssistError):
    """A model, package, provider or device cannot be had here; the message says which."""

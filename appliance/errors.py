"""The error tree, grouped by what happens next.

CurieError                 one line for a person, with the next step
├── SettingsError          refuse to start: key, value, what is allowed
├── Missing                something needed is not there (exit code 3)
├── InstanceRefused        answer the sender with `.status`
├── StudyUnsuitable        the job ends UNSUITABLE with a sentence: a normal ending
├── StudyBlocked           the job ends FAILED: the study contradicts itself
├── PackageRefused         the package is not used; the active version stays
├── EngineUnavailable      try the next rung, or another worker
├── ResultRejected         the result is wrong in itself: never delivered
├── DeliveryFailed
│   ├── Unreachable        try again later, without end
│   │   └── NotKnown       it does not know our AE title: somebody has to add it there
│   ├── Refused            the destination said no: show its status
│   │   └── NotAccepted    it takes none of this kind: what is optional is withdrawn
│   └── NotCommitted       ask again
└── RoundRefused           this site sits this federated round out

This module must never import anything but the standard library.
"""

from __future__ import annotations


class CurieError(Exception):
    """Base of all errors that a person reads; its text is one line."""


class SettingsError(CurieError):
    """A setting is unknown or has a bad value; refuse to start."""


class Missing(CurieError):
    """Something the command needs is not there."""


class InstanceRefused(CurieError):
    """An instance was not taken in; `status` is the C-STORE response (PS3.4 Table B.2-1)."""

    OUT_OF_STORAGE = 0xA700
    WRONG_CLASS = 0xA900
    UNREADABLE = 0xC000

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class StudyUnsuitable(CurieError):
    """The model does not apply to this study; a normal ending."""


class StudyBlocked(CurieError):
    """The study contradicts itself (mixed patients, two contents under one UID): no result is made."""


class PackageRefused(CurieError):
    """A package failed its digest, format, parity or golden case."""


class EngineUnavailable(CurieError):
    """This rung of the engine ladder cannot run here."""


class ResultRejected(CurieError):
    """A result is wrong in itself and is never delivered."""


class DeliveryFailed(CurieError):
    """A result did not reach its destination."""


class Unreachable(DeliveryFailed):
    """The destination does not answer; try again later."""


class NotKnown(Unreachable):
    """The destination answers, and does not know our AE title."""


class Refused(DeliveryFailed):
    """The destination answered no; `status` is what it said."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class NotAccepted(Refused):
    """The destination takes no objects of this class or transfer syntax."""


class NotCommitted(DeliveryFailed):
    """The destination does not vouch for the object; send or ask again."""


class RoundRefused(CurieError):
    """This site does not take part in the round."""

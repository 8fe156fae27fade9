"""How much a server takes in: what a request may hold, and what all of them together may."""

from __future__ import annotations

from dataclasses import dataclass

# bodies that are in memory at a time, in the largest that one request may have
BODIES = 32


class RequestError(Exception):
    """A request that is refused, and why.

    Args:
        status: Of HTTP.
        message: A sentence for who sent it.
        param: The field of the body that it is about.
        code: A word for programs.
        retry_after: Seconds after which another try may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str = "invalid_value",
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after


def refusal(name: str, problem: str, status: int = 400, code: str = "invalid_value") -> RequestError:
    """Return the error that says what is wrong with a field of a body."""
    return RequestError(status, f"{name}: {problem}", name, code)


@dataclass(frozen=True)
class Limits:
    """What a server takes in.

    Args:
        max_texts: The most texts of a request; one in several prompts counts once for each.
        max_waiting: The most texts that are taken in and not answered yet.
        max_bytes: The largest body of a request.

    Raises:
        ValueError: If one is no number >= 1, or a request of `max_texts` could never be taken in.
    """

    max_texts: int = 2048  # as OpenAI has it
    max_waiting: int = 8192
    max_bytes: int = 4 * 2**20  # JSON of many small lists is slow to read, and nothing else goes on meanwhile

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name}: expected a number >= 1; got {value}.")
        if self.max_texts > self.max_waiting:
            raise ValueError(
                f"max_waiting: expected at least max_texts, which is {self.max_texts}; got {self.max_waiting}. "
                "A request of so many texts would never be taken in: raise the one or lower the other."
            )


class Admission:
    """Counts what is in memory: nobody comes in beyond the limits.

    A request is counted until its answer is sent, not only until it is computed: vectors that slow clients have not
    read take memory too.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self.texts = 0  # taken in, and not answered yet
        self.bytes = 0  # of bodies


class Visit:
    """One request, from its first byte to the last of its answer. `leave` ends it, whatever happened.

    Args:
        admission: What all requests take together.
    """

    def __init__(self, admission: Admission):
        self.admission = admission
        self._texts = self._bytes = 0

    def add_bytes(self, count: int) -> bool:
        """Count a part of the body. False: there is no room for it."""
        self.admission.bytes += count
        self._bytes += count
        return self.admission.bytes <= BODIES * self.admission.limits.max_bytes

    def add_texts(self, count: int) -> bool:
        """Take texts in. False: there is no room for them."""
        if self.admission.texts + count > self.admission.limits.max_waiting:
            return False
        self.admission.texts += count
        self._texts += count
        return True

    def leave(self) -> None:
        """Make room again."""
        self.admission.texts -= self._texts
        self.admission.bytes -= self._bytes
        self._texts = self._bytes = 0

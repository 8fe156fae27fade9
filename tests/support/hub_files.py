"""What a repository of the Hub holds: commits of files, each as git, LFS or Xet names it."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from starlette.responses import JSONResponse, RedirectResponse

GITATTRIBUTES = b"".join(
    f"*.{ext} filter=lfs diff=lfs merge=lfs -text\n".encode() for ext in ("bin", "npz", "pt", "safetensors")
)


@dataclass(frozen=True)
class File:
    """One file of a commit; `content` is None where only the Xet storage has it."""

    size: int
    oid: str
    sha256: str | None = None
    content: bytes | None = None


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, File]) -> str:
        listing = sorted((path, file.oid) for path, file in files.items())
        sha = hashlib.sha1(repr((listing, self.branches.get(branch), len(self.commits))).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str:
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha


class Refusal(Exception):
    """An answer that is an error, as the Hub words it."""

    def __init__(self, status: int, code: str | None, message: str):
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.response = JSONResponse({"error": message}, status, headers)


class Moved(Refusal):
    """The answer for a repository that has another name now."""

    def __init__(self, path: str):
        self.response = RedirectResponse(path, 307)


def git_oid(content: bytes) -> str:
    """The name of a blob in git."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def regular_file(content: bytes) -> File:
    """A file that git itself keeps."""
    return File(len(content), git_oid(content), None, content)


def shard_entries(shard: bytes) -> Iterator[tuple[str, str]]:
    """SHA-256 and Xet hash of the files that a Xet shard describes: 48-byte records after a 48-byte header."""
    position = 48
    while (header := shard[position : position + 48])[:32] != b"\xff" * 32:
        flags, entries = (int.from_bytes(header[i : i + 4], "little") for i in (32, 36))
        position += 48 * (1 + entries * (2 if flags >> 31 else 1))
        if flags >> 30 & 1:
            yield _hex(shard[position : position + 32]), _hex(header[:32])
            position += 48


def _hex(digest: bytes) -> str:
    # Xet writes a hash as four little-endian numbers
    return "".join(f"{int.from_bytes(digest[i : i + 8], 'little'):016x}" for i in range(0, 32, 8))

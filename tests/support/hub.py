"""A Hub on loopback: as much of the real one's HTTP interface as loading and pushing models needs.

Repositories live in memory. Large files go over the LFS protocol, or by the real Xet client into a folder that it
shares with this server. Answers and errors are those of huggingface.co as huggingface_hub reads them.
"""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from support.hub_cards import card_errors, metadata, space_errors
from support.hub_files import GITATTRIBUTES, File, Moved, Refusal, Repository, git_oid, regular_file, shard_entries

USERS = {"hf_author": "author", "hf_stranger": "stranger"}
LARGE = 10 * 2**20  # bytes from which the Hub keeps any file in LFS


class Hub:
    """The server; `log` keeps method and path of every request, `before` sees each one first."""

    def __init__(self, xet_store: Path):
        self.xet_store = xet_store
        self.url = self.storage = ""
        self.clear()

    def clear(self) -> None:
        """Forget everything but the content of the Xet storage."""
        self.repositories: dict[str, Repository] = {}
        self.moved: dict[str, str] = {}
        self.lfs: dict[str, bytes] = {}
        self.log: list[str] = []
        self.before: Callable[[Request], None] = lambda request: None

    # ------------------------------------------------------------------ for tests

    def files(self, repo_id: str, revision: str = "main") -> dict[str, File]:
        repository = self.repositories[repo_id]
        return repository.commits[repository.resolve(revision)]

    def head(self, repo_id: str) -> str:
        return self.repositories[repo_id].branches["main"]

    def add(self, repo_id: str, files: dict[str, bytes], **attributes: bool) -> str:
        """Commit `files` to a repository, made if it is not there, and return the commit."""
        repository = self.repositories.setdefault(repo_id, Repository())
        for name, value in attributes.items():
            setattr(repository, name, value)
        old = self.files(repo_id) if repository.branches else {}
        return repository.commit("main", old | {path: regular_file(content) for path, content in files.items()})

    def requests(self, pattern: str) -> list[str]:
        """The requests so far whose method and path match the regular expression."""
        return [line for line in self.log if re.search(pattern, line)]

    @contextlib.contextmanager
    def serve(self, listener: socket.socket) -> Iterator[Hub]:
        """Answer on a bound socket while the context lasts."""
        with serve(self.app(), listener) as self.url:
            self.storage = self.url.replace("127.0.0.1", "localhost")  # another host, as the Hub has for large files
            yield self

    def app(self) -> Starlette:
        model = "/api/{kind}/{namespace}/{name}"  # or a data set
        routes = [
            ("GET", "/api/whoami-v2", self.whoami),
            ("POST", "/api/repos/create", self.create),
            ("POST", "/api/validate-yaml", self.validate_yaml),
            ("GET", model, self.info),
            ("GET", f"{model}/revision/{{rev}}", self.info),
            ("GET", f"{model}/tree/{{rev}}", self.tree),
            ("GET", f"{model}/tree/{{rev}}/{{path:path}}", self.tree),
            ("POST", f"{model}/paths-info/{{rev}}", self.paths_info),
            ("POST", f"{model}/preupload/{{rev}}", self.preupload),
            ("POST", f"{model}/commit/{{rev}}", self.commit),
            ("GET", f"{model}/xet-write-token/{{rev}}", self.xet_token),
            ("GET", f"{model}/xet-read-token/{{rev}}", self.xet_token),
            ("POST", "/{namespace}/{name}.git/info/lfs/objects/batch", self.lfs_batch),
            ("POST", "/{kind}/{namespace}/{name}.git/info/lfs/objects/batch", self.lfs_batch),
            ("PUT", "/lfs/{oid}", self.lfs_upload),
            ("POST", "/lfs/{oid}/verify", self.lfs_verify),
            ("GET", "/lfs/{oid}", self.lfs_download),
            ("GET", "/{namespace}/{name}/resolve/{rev}/{path:path}", self.resolve),
            ("GET", "/{kind}/{namespace}/{name}/resolve/{rev}/{path:path}", self.resolve),
        ]
        return Starlette(routes=[Route(path, self._guard(handler), methods=[m]) for m, path, handler in routes])

    def _guard(self, handler: Callable[[Request, bytes], Response]) -> Any:
        async def endpoint(request: Request) -> Response:
            body = await request.body()
            self.log.append(f"{request.method} {request.url.path}")
            try:
                self.before(request)
                return handler(request, body)
            except Refusal as refusal:
                return refusal.response

        return endpoint

    # ------------------------------------------------------------------ who may do what

    @staticmethod
    def _user(request: Request) -> str | None:
        header = request.headers.get("authorization")
        if header is None:
            return None
        if (user := USERS.get(header.removeprefix("Bearer "))) is None:
            raise Refusal(401, None, "Invalid credentials in Authorization header")
        return user

    def _repository(self, request: Request) -> tuple[str, Repository]:
        repo_id = "{namespace}/{name}".format(**request.path_params)
        if (kind := request.path_params.get("kind")) in ("datasets", "spaces"):
            repo_id = f"{kind}/{repo_id}"
        user = self._user(request)
        repository = self.repositories.get(repo_id)
        if repository is None or (repository.private and user != request.path_params["namespace"]):
            if repository is None and (target := self.moved.get(repo_id)):
                raise Moved(request.url.path.replace(repo_id, target))
            raise Refusal(401 if user is None else 404, "RepoNotFound", "Repository not found")
        return repo_id, repository

    def _readable(self, request: Request) -> tuple[str, Repository]:
        repo_id, repository = self._repository(request)
        if repository.gated and self._user(request) != request.path_params["namespace"]:
            raise Refusal(
                401 if self._user(request) is None else 403, "GatedRepo", f"Access to {repo_id} is restricted"
            )
        return repo_id, repository

    def _writable(self, request: Request) -> tuple[str, Repository]:
        repo_id, repository = self._repository(request)
        if self._user(request) != request.path_params["namespace"]:
            raise Refusal(403, None, "You don't have the rights to write to this repository")
        return repo_id, repository

    # ------------------------------------------------------------------ accounts, repositories, cards

    def whoami(self, request: Request, body: bytes) -> Response:
        if (user := self._user(request)) is None:
            raise Refusal(401, None, "Invalid username or password.")
        return JSONResponse(
            {"type": "user", "name": user, "fullname": user, "orgs": [], "auth": {"type": "access_token"}}
        )

    def create(self, request: Request, body: bytes) -> Response:
        user = self._user(request)
        wanted = json.loads(body)
        if user is None:
            raise Refusal(401, None, "Invalid username or password.")
        name = f"{wanted.get('organization') or user}/{wanted['name']}"
        kind = wanted.get("type") or "model"
        if kind == "space" and wanted.get("sdk") not in ("gradio", "docker", "static"):
            raise Refusal(400, None, '"sdk" must be one of gradio, docker, static')
        repo_id = name if kind == "model" else f"{kind}s/{name}"
        answer = {"url": f"{self.url}/{repo_id}", "name": name}
        if repo_id in self.repositories:
            return JSONResponse(answer | {"error": "You already created this model repo"}, 409)
        if not name.startswith(f"{user}/"):
            raise Refusal(403, None, f"You don't have the rights to create a model under this namespace: {name}")
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.repositories[repo_id] = Repository(private=bool(private))
        self.repositories[repo_id].commit("main", {".gitattributes": regular_file(GITATTRIBUTES)})
        return JSONResponse(answer)

    def validate_yaml(self, request: Request, body: bytes) -> Response:
        wanted = json.loads(body)
        errors = (space_errors if wanted["repoType"] == "space" else card_errors)(wanted["content"])
        answer = {"errors": [{"message": message} for message in errors], "warnings": []}
        return JSONResponse(answer, 400 if errors else 200)

    def info(self, request: Request, body: bytes) -> Response:
        repo_id, repository = self._repository(request)
        sha = repository.resolve(request.path_params.get("rev", "main"))
        card = metadata(readme.content or b"") if (readme := repository.commits[sha].get("README.md")) else {}
        siblings = [{"rfilename": path} for path in sorted(repository.commits[sha])]
        answer = {"_id": sha[:24], "id": repo_id, "modelId": repo_id, "sha": sha, "private": repository.private}
        answer |= {"siblings": siblings, "tags": card.get("tags", []), "cardData": card, "gated": repository.gated}
        return JSONResponse(answer | {key: card[key] for key in ("pipeline_tag", "library_name") if key in card})

    def tree(self, request: Request, body: bytes) -> Response:
        _, repository = self._readable(request)
        files = repository.commits[repository.resolve(request.path_params["rev"])]
        folder = request.path_params.get("path", "")
        inside = {path: file for path, file in files.items() if path.startswith(f"{folder}/" if folder else "")}
        if folder and not inside:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist on this revision")
        return JSONResponse([self._entry(path, file) for path, file in sorted(inside.items())])

    def paths_info(self, request: Request, body: bytes) -> Response:
        _, repository = self._readable(request)
        files = repository.commits[repository.resolve(request.path_params["rev"])]
        return JSONResponse([self._entry(p, files[p]) for p in json.loads(body)["paths"] if p in files])

    def _entry(self, path: str, file: File) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": file.oid}
        if file.sha256:
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
            if xet_hash := self._xet_hash(file):
                entry["xetHash"] = xet_hash
        return entry

    # ------------------------------------------------------------------ uploads

    def preupload(self, request: Request, body: bytes) -> Response:
        _, repository = self._writable(request)
        present = repository.commits[repository.resolve(request.path_params["rev"])]
        patterns = [line.split()[0] for line in GITATTRIBUTES.decode().splitlines()]
        answers = []
        for wanted in json.loads(body)["files"]:
            path, file = wanted["path"], present.get(wanted["path"])
            large = wanted["size"] > LARGE or any(fnmatch.fnmatch(path, pattern) for pattern in patterns)
            answer = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            answers.append(answer | ({"oid": file.sha256 or file.oid} if file else {}))
        return JSONResponse({"files": answers})

    def commit(self, request: Request, body: bytes) -> Response:
        repo_id, repository = self._writable(request)
        branch = request.path_params["rev"]
        head = repository.resolve(branch)
        files = dict(repository.commits[head])
        for line in body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header" and value.get("parentCommit", head) != head:
                raise Refusal(412, None, "A commit has happened since. Please refresh and try again.")
            if key == "file":
                files[value["path"]] = regular_file(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                oid, content = value["oid"], self.lfs.get(value["oid"])
                if content is None and oid not in self.xet_hashes():
                    raise Refusal(400, None, f"LFS pointer points to a file that does not exist: {value['path']}")
                files[value["path"]] = File(value["size"], git_oid(oid.encode()), oid, content)
            elif key == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(branch, files)
        url = f"{self.url}/{repo_id}/commit/{sha}"
        return JSONResponse({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def lfs_batch(self, request: Request, body: bytes) -> Response:
        self._writable(request)
        objects = []
        for wanted in json.loads(body)["objects"]:
            href = f"{self.url}/lfs/{wanted['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            objects.append(
                wanted | {"authenticated": True} | ({} if wanted["oid"] in self.lfs else {"actions": actions})
            )
        return JSONResponse({"transfer": "basic", "objects": objects}, media_type="application/vnd.git-lfs+json")

    def lfs_upload(self, request: Request, body: bytes) -> Response:
        if hashlib.sha256(body).hexdigest() != request.path_params["oid"]:
            return PlainTextResponse("the content is not that of its oid", 400)
        self.lfs[request.path_params["oid"]] = body
        return Response()

    def lfs_verify(self, request: Request, body: bytes) -> Response:
        return Response(status_code=200 if request.path_params["oid"] in self.lfs else 404)

    def xet_token(self, request: Request, body: bytes) -> Response:
        (self._writable if "write" in request.url.path else self._readable)(request)
        url, expiration = f"local://{self.xet_store}", int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "local", "X-Xet-Token-Expiration": str(expiration)}
        return JSONResponse({"casUrl": url, "accessToken": "local", "exp": expiration}, headers=headers)

    def xet_hashes(self) -> dict[str, str]:
        """The Xet hash of every file in the store, by SHA-256, read from its shards."""
        return dict(pair for shard in self.xet_store.rglob("*.mdb") for pair in shard_entries(shard.read_bytes()))

    def _xet_hash(self, file: File) -> str | None:
        return self.xet_hashes().get(file.sha256 or "") if file.content is None else None

    # ------------------------------------------------------------------ downloads

    def resolve(self, request: Request, body: bytes) -> Response:
        repo_id, repository = self._readable(request)
        sha = repository.resolve(request.path_params["rev"])
        path = request.path_params["path"]
        if (file := repository.commits[sha].get(path)) is None:
            refusal = Refusal(404, "EntryNotFound", "Entry not found")
            refusal.response.headers["X-Repo-Commit"] = sha
            raise refusal
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
        if file.sha256 is None:
            return _content(request, file.content or b"", headers)
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        if xet_hash := self._xet_hash(file):
            headers |= {"X-Xet-Hash": xet_hash}
            kind = "" if repo_id.startswith(("datasets/", "spaces/")) else "models/"
            headers |= {"Link": f'<{self.url}/api/{kind}{repo_id}/xet-read-token/{sha}>; rel="xet-auth"'}
        return RedirectResponse(f"{self.storage}/lfs/{file.sha256}", 302, headers)

    def lfs_download(self, request: Request, body: bytes) -> Response:
        oid = request.path_params["oid"]
        return _content(request, self.lfs[oid], {"ETag": f'"{oid}"'}) if oid in self.lfs else Response(status_code=404)


@contextlib.contextmanager
def serve(app: Starlette, listener: socket.socket) -> Iterator[str]:
    """Serve an application on a bound socket of loopback, and give its address."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def _content(request: Request, content: bytes, headers: dict[str, str]) -> Response:
    if match := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
        start, end = int(match[1]), int(match[2] or len(content) - 1)
        headers = headers | {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
        return Response(content[start : end + 1], 206, headers)
    return Response(content, headers=headers)

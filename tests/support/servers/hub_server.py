"""A hub on the loopback interface: the endpoints of push and pull, with repositories in memory."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from support.servers.file_server import run_server

TOKEN = "hf_secretOfTheTest"


class Hub:
    """commits: (commit, {path: content}) by repository, oldest first; REPOSITORY@BRANCH for other
    branches than main. private: the private repositories.
    """

    def __init__(self) -> None:
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}  # by sha256, as large files are sent
        self.requests: list[tuple[str, str]] = []
        self.sizes: dict[str, int] = {}  # what it says of a path in place of the truth
        self.spoil: dict[str, bytes] = {}  # what it sends for a path in place of the content

    def add(self, repository: str, files: dict[str, bytes | None]) -> str:
        """A commit with these files over those before, None deletes one; -> its name."""
        history = self.commits.setdefault(repository, [])
        files = {**(history[-1][1] if history else {}), **files}
        files = {name: content for name, content in files.items() if content is not None}
        commit = hashlib.sha1(
            repr([repository, len(history), sorted(files.items())]).encode()
        ).hexdigest()
        history.append((commit, files))
        return commit

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if branch := self.commits.get(f"{repository}@{revision}"):
            return branch[-1]
        histories = [
            history
            for name, history in self.commits.items()
            if name.partition("@")[0] == repository
        ]
        if revision == "main" and repository in self.commits:
            return self.commits[repository][-1]
        return next((one for history in histories for one in history if one[0] == revision), None)


@contextmanager
def running_hub(hub: Hub) -> Iterator[str]:
    """Its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, content: object = b"", **headers: object) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def handle_any(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            while self.headers.get("Transfer-Encoding") == "chunked":
                size = int(self.rfile.readline(), 16)
                body += self.rfile.read(size)
                self.rfile.readline()
                if not size:
                    break
            writes = (
                path.startswith("/api/repos/create")
                or re.search("/(commit|branch|preupload|lfs)/", path) is not None
            )
            if writes and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer(401, {"error": "Invalid username or password."})
            parts = path.strip("/").split("/")
            if path == "/api/repos/create":
                asked = json.loads(body)
                repository = (
                    f"{asked['organization']}/{asked['name']}"
                    if asked.get("organization")
                    else asked["name"]
                )
                if repository in hub.private:
                    return self.answer(409, {"error": "exists", "url": f"{address}/{repository}"})
                hub.private[repository] = bool(
                    asked.get("private") or asked.get("visibility") == "private"
                )
                hub.add(repository, {})
                return self.answer(200, {"url": f"{address}/{repository}", "name": repository})
            if path == "/api/validate-yaml":
                return self.answer(200, {"errors": [], "warnings": []})
            if parts[:2] == ["api", "models"]:
                return self.api("/".join(parts[2:4]), parts[4:], body)
            if path.endswith("/info/lfs/objects/batch"):
                objects = [
                    {**one, "actions": {"upload": {"href": f"{address}/lfs-store/{one['oid']}"}}}
                    for one in json.loads(body)["objects"]
                ]
                return self.answer(200, {"transfer": "basic", "objects": objects})
            if parts[0] == "lfs-store":
                hub.blobs[parts[1]] = body
                return self.answer(200)
            if parts[2:3] == ["resolve"]:
                found, name = hub.find("/".join(parts[:2]), parts[3]), "/".join(parts[4:])
                if found is None:
                    return self.answer(404, {"error": "no"}, X_Error_Code="RepoNotFound")
                if name not in found[1]:
                    return self.answer(
                        404, {"error": "no"}, X_Error_Code="EntryNotFound", X_Repo_Commit=found[0]
                    )
                content = hub.spoil.get(name, found[1][name])
                tag = hashlib.sha256(found[1][name]).hexdigest()
                return self.answer(200, content, ETag=f'"{tag}"', X_Repo_Commit=found[0])
            return self.answer(404, {"error": f"nothing at {path}"})

        def api(self, repository: str, rest: list[str], body: bytes) -> None:
            if repository not in hub.commits and repository not in hub.private:
                return self.answer(404, {"error": "no"}, X_Error_Code="RepoNotFound")
            if not rest or rest[0] == "revision":
                found = hub.find(repository, rest[1] if rest else "main")
                if found is None:
                    return self.answer(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
                return self.answer(
                    200, {"id": repository, "sha": found[0], "siblings": [], "tags": []}
                )
            if rest[0] == "branch":
                hub.commits[f"{repository}@{rest[1]}"] = list(hub.commits[repository])
                return self.answer(200)
            if rest[0] == "paths-info":
                _, files = hub.find(repository, rest[1])
                names = [name for name in parse_qs(body.decode())["paths"] if name in files]
                return self.answer(200, [self.row(name, files[name]) for name in names])
            if rest[0] == "preupload":
                asked = json.loads(body)["files"]
                rows = [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["size"] > 10_000 else "regular",
                        "shouldIgnore": False,
                    }
                    for f in asked
                ]
                return self.answer(200, {"files": rows})
            if rest[0] == "commit":
                if hub.find(repository, rest[1]) is None:
                    return self.answer(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
                lines = [json.loads(line) for line in body.splitlines()]
                files = {
                    line["value"]["path"]: None for line in lines if line["key"] == "deletedFile"
                }
                for line in (line["value"] for line in lines if line["key"] in ("file", "lfsFile")):
                    large = "oid" in line
                    files[line["path"]] = (
                        hub.blobs[line["oid"]] if large else base64.b64decode(line["content"])
                    )
                commit = hub.add(
                    repository if rest[1] == "main" else f"{repository}@{rest[1]}", files
                )
                url = f"{address}/{repository}/commit/{commit}"
                return self.answer(200, {"commitUrl": url, "commitOid": commit, "success": True})
            return self.answer(404, {"error": f"nothing at {rest}"})

        def row(self, name: str, content: bytes) -> dict:
            size = hub.sizes.get(name, len(content))
            row = {
                "type": "file",
                "path": name,
                "size": size,
                "oid": hashlib.sha1(content).hexdigest(),
            }
            if len(content) > 10_000:
                row["lfs"] = {
                    "oid": hashlib.sha256(content).hexdigest(),
                    "size": size,
                    "pointerSize": 130,
                }
            return row

        do_GET = do_POST = do_HEAD = do_PUT = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with run_server(Handler) as address:
        yield address

"""A Hub on the loopback address: the calls that `huggingface_hub` makes to push and to load, and how it refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

LARGE = (".safetensors", ".png")


class StandInHub:
    """Repositories in memory, one branch each; `refusing` has the status that calls about a repository get."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.refusing: dict[str, int] = {}
        self.uploads: dict[str, bytes] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> StandInHub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: object) -> dict[str, str]:
        """For a process that is to take it for the Hub."""
        return {
            "HF_ENDPOINT": self.url, "HF_TOKEN": "hf_stand_in", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    hub: StandInHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, content: object = b"", status: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def refused(self, repo: str) -> bool:
        status = self.hub.refusing.get(repo, 200 if repo in self.hub.repos else 404)
        if status != 200:
            self.answer(b"{}", status, **({"X_Error_Code": "RepoNotFound"} if status == 404 else {}))
        return status != 200

    def do_POST(self) -> None:
        path, body = unquote(self.path.partition("?")[0]), self.body()
        if path == "/api/repos/create":
            request = json.loads(body)
            repo = f"{request['organization'] or 'user'}/{request['name']}"
            if self.hub.refusing.get(repo):
                return self.answer(b"{}", self.hub.refusing[repo])
            self.hub.repos.setdefault(repo, {})
            return self.answer({"url": f"{self.hub.url}/{repo}", "name": repo})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        repo = "/".join(path.removeprefix("/api/models").strip("/").split("/")[:2]).removesuffix(".git")
        if self.refused(repo):
            return None
        if path.endswith("/preupload/main"):
            mode = {True: "lfs", False: "regular"}
            files = [{**f, "uploadMode": mode[f["path"].endswith(LARGE)]} for f in json.loads(body)["files"]]
            return self.answer({"files": [{**f, "shouldIgnore": False} for f in files]})
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            links = [{**o, "actions": {"upload": {"href": f"{self.hub.url}/upload/{o['oid']}"}}} for o in objects]
            return self.answer({"transfer": "basic", "objects": links})
        if path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.hub.repos[repo][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.hub.repos[repo][value["path"]] = self.hub.uploads[value["oid"]]
            url = f"{self.hub.url}/{repo}/commit/{self.commit(repo)}"
            return self.answer({"success": True, "commitOid": self.commit(repo), "commitUrl": url})
        return self.answer(b"{}", 404)

    def do_PUT(self) -> None:
        self.hub.uploads[self.path.rpartition("/")[2]] = self.body()
        self.answer()

    def do_GET(self) -> None:
        parts = unquote(self.path.partition("?")[0]).strip("/").removeprefix("api/models/").split("/")
        repo, rest = "/".join(parts[:2]), parts[2:]
        if self.refused(repo):
            return None
        files, commit = self.hub.repos[repo], self.commit(repo)
        if rest[:1] == ["resolve"]:
            if rest[1] not in ("main", commit):
                return self.answer(b"{}", 404, X_Error_Code="RevisionNotFound")
            content = files.get("/".join(rest[2:]))
            if content is None:
                return self.answer(b"{}", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return self.answer(content, ETag=hashlib.sha1(content).hexdigest(), X_Repo_Commit=commit)
        if rest[:1] == ["tree"]:
            rows = [{"type": "file", "path": path, "size": len(c), "oid": "0"} for path, c in files.items()]
            return self.answer(rows)
        return self.answer({"id": repo, "sha": commit, "siblings": [{"rfilename": path} for path in files]})

    def do_HEAD(self) -> None:
        self.do_GET()

    def commit(self, repo: str) -> str:
        digest = hashlib.sha1(repo.encode())
        for path, content in sorted(self.hub.repos[repo].items()):
            digest.update(path.encode() + content)
        return digest.hexdigest()

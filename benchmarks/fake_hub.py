"""A small Hugging Face hub in a thread: it creates model repositories, takes commits and large files, and can fail.

It answers `HfApi.create_repo`, `create_branch`, `create_commit` and `whoami`; `files` has what arrived.
"""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeHub:
    """Attributes: `files` by repository and name, `private` by repository, `requests` as method and path.

    Args:
        token: Accepted token.
        role: Role of the token.
        faults: Status codes by a part of the path; requests whose path has that part get the status.
        large: Endings of files that have to be sent as LFS objects.
        moved: Answer every API request with a redirect to the same path below `/moved`.
    """

    def __init__(
        self,
        *,
        token: str = "hf_fake_token_for_tests_0001",
        role: str = "write",
        faults: dict[str, int] | None = None,
        large: tuple[str, ...] = (".safetensors",),
        moved: bool = False,
    ) -> None:
        self.token, self.role, self.faults, self.large, self.moved = token, role, faults or {}, large, moved
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[str] = []
        self.branches: list[str] = []
        self.commits: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                hub.answer(self, b"")

            def do_POST(self) -> None:
                hub.answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            do_PUT = do_POST

        return Handler

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        path = request.path.partition("?")[0]
        self.requests.append(f"{request.command} {path}")
        if self.moved and path.startswith("/api/") and "/moved" not in path:
            return self._say(request, 307, {}, {"Location": f"{self.url}/moved{request.path}"})
        path = path.removeprefix("/moved")
        if status := next((status for part, status in self.faults.items() if part in path), None):
            return self._say(request, status, {"error": "as planned"})
        if path.startswith("/objects/"):
            self.objects[path.rpartition("/")[2]] = body
            return self._say(request, 200, {})
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return self._say(request, 401, {"error": "Invalid credentials"})
        return self._say(request, 200, self._done(path, body))

    def _done(self, path: str, body: bytes) -> dict[str, Any]:
        parts = path.strip("/").split("/")
        if path == "/api/whoami-v2":
            return {"name": "me", "type": "user", "auth": {"accessToken": {"role": self.role}}}
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.files.setdefault(repo, {})
            self.private.setdefault(repo, asked.get("visibility") == "private" or bool(asked.get("private")))
            return {"url": f"{self.url}/{repo}", "name": repo, "id": repo}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.url}/objects/{one['oid']}", "header": {}}}}
                for one in json.loads(body)["objects"]
            ]
            return {"transfer": "basic", "objects": objects}
        repo = "/".join(parts[2:4])
        if "branch" in parts:
            self.branches.append(parts[-1])
            return {}
        if "preupload" in parts:
            named = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(self.large) else "regular" for name in named}
            return {"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]}
        if "commit" in parts:
            self._commit(repo, body)
            self.commits.append(f"{repo}@{parts[-1]}")
            return {"commitOid": "0" * 40, "commitUrl": f"{self.url}/{repo}/commit/{'0' * 40}", "hookOutput": ""}
        return {"id": repo, "sha": "0" * 40, "siblings": [], "private": True}

    def _commit(self, repo: str, body: bytes) -> None:
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.files[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self.objects[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                self.files[repo][value["path"]] = content

    @staticmethod
    def _say(
        request: BaseHTTPRequestHandler, status: int, content: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(content).encode()
        request.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

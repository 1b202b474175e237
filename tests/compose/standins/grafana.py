"""Stands in for Grafana: ok on /api/health when its user can read what the real one needs, else why not."""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def problems() -> list[str]:
    found = []
    if not Path(os.environ["GF_SECURITY_ADMIN_PASSWORD__FILE"]).read_text().strip():
        found.append("no password")
    for folder in (Path("/etc/grafana/provisioning"), Path("/etc/grafana/dashboards")):
        for path in folder.rglob("*"):
            if path.is_file() and not os.access(path, os.R_OK):
                found.append(f"{path} is not readable")
        if not folder.is_dir():
            found.append(f"{folder} is missing")
    (Path("/var/lib/grafana") / "grafana.db").write_text("written\n")
    return found


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = problems() if self.path == "/api/health" else ["no such page"]
        body = json.dumps({"database": "ok"} if not found else {"problems": found}).encode()
        self.send_response(503 if found else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", 3000), Handler).serve_forever()

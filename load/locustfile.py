"""Load on a model server over REST, for Locust (https://locust.io), which is yours to install:

    pip install locust
    locust -f load/locustfile.py --host http://127.0.0.1:8501                    # with a page on port 8089
    locust -f load/locustfile.py --host http://127.0.0.1:8501 --headless -u 16 -t 30s \\
           --model imagenet --label canary --images 'photos/*.jpg'

Each user sends its next request when the last is answered (add --wait SECONDS to pause between). An answer that is not
200, or has no predictions, is a failure. Without --images it sends one number a request, as half_plus_two takes it.
Locust measures a closed loop: `servekit bench` has an open loop and gRPC, too, and tells when it was the limit itself.
"""

from __future__ import annotations

import base64
import glob
import itertools
import json
from pathlib import Path
from typing import Any

from locust import FastHttpUser, events, task
from locust.argument_parser import LocustArgumentParser


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--model", default="imagenet", help="Name of the model.")
    parser.add_argument("--label", default="", help="Version label; none: the server's choice.")
    parser.add_argument("--images", default="", help="Files to send, as 'photos/*.jpg'.")
    parser.add_argument("--wait", type=float, default=0.0, help="Seconds between a user's requests.")


class Predicting(FastHttpUser):
    def on_start(self) -> None:
        options = self.environment.parsed_options
        label = f"/labels/{options.label}" if options.label else ""
        self.path = f"/v1/models/{options.model}{label}:predict"
        self.bodies = itertools.cycle(bodies(options.images))

    def wait_time(self) -> float:
        return float(self.environment.parsed_options.wait)

    @task
    def predict(self) -> None:
        headers = {"Content-Type": "application/json"}
        with self.client.post(self.path, data=next(self.bodies), headers=headers, catch_response=True) as answer:
            if answer.status_code == 200 and not has_predictions(answer.text):
                answer.failure("no predictions")


def bodies(pattern: str) -> list[str]:
    if not pattern:
        return ['{"instances": [1.0]}']
    files = [Path(name).read_bytes() for name in sorted(glob.glob(pattern))]  # noqa: PTH207 - it may be absolute
    if not files:
        raise SystemExit(f"--images {pattern}: no such files")
    return [json.dumps({"instances": [{"b64": base64.b64encode(data).decode()}]}) for data in files]


def has_predictions(text: str | None) -> bool:
    try:
        found: Any = json.loads(text or "")
    except ValueError:
        return False
    return isinstance(found, dict) and bool(found.get("predictions"))

"""The image's entrypoint: `servekit ...` as the owner of the mounted models/, so that what it writes is theirs.

Compose starts it as root with the capabilities SETUID and SETGID alone. It makes Grafana's password, becomes the owner
and has no capability from then on. Started as another user, it is `servekit` and nothing else.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from servekit.atomic import write_atomically
from servekit.cli.main import main
from servekit.paths import bundle

GRAFANA_PASSWORD = Path("/run/grafana-password/password")
"""In a volume that Grafana mounts too; its image's user has group 0."""


def ensure_password(path: Path) -> bool:
    """A random password on one line, readable for owner and group. True when it was made, False when it was there."""
    if path.exists():
        return False
    write_atomically(path, secrets.token_urlsafe(24) + "\n", mode=0o440)
    return True


def become_owner(folder: Path) -> None:
    """For good: the saved ids change too, and the kernel takes the capabilities away with user 0."""
    owner = folder.stat()
    os.setgroups([])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)


def enter() -> None:
    if os.geteuid() == 0:
        if GRAFANA_PASSWORD.parent.is_dir():
            ensure_password(GRAFANA_PASSWORD)
        become_owner(bundle().models)
    os.umask(0o022)
    main()


if __name__ == "__main__":
    enter()

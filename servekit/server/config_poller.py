"""Re-reads the model configuration file and reloads it: --model_config_file_poll_wait_seconds."""

from __future__ import annotations

import logging
import threading

from servekit.errors import StatusError
from servekit.protos import messages
from servekit.server.core import ServerCore
from servekit.server.text_proto import read_message

logger = logging.getLogger(__name__)


class ConfigFilePoller:
    """Applies the file at once and then every `wait_s` seconds, changed or not.

    A file that is wrong changes nothing and is logged.
    """

    def __init__(self, core: ServerCore, path: str, wait_s: float) -> None:
        self._core = core
        self._path = path
        self._wait_s = wait_s
        self._stopping = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="model_config_polling", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def poll_once(self) -> None:
        failed, self._failed = self._failed, True
        try:
            config = read_message(self._path, messages.ModelServerConfig)
        except StatusError as error:
            logger.error("Failed to read ModelServerConfig file: %s", error.message)
            return
        try:
            self._core.reload(config, after_failure=failed)
            self._failed = False
        except StatusError as error:
            if not self._stopping.is_set():
                logger.error("PollFilesystemAndReloadConfig failed to ReloadConfig: %s", error.message)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.poll_once()
            except Exception:
                logger.exception("Unexpected error while reloading the configuration; it is tried again")
            self._stopping.wait(self._wait_s)

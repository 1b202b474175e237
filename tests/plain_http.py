"""httpx for servers on this machine: through no proxy, and without its list of authorities.

httpx reads that list, 40 ms of processor time, for every client and every `httpx.get`, also where nothing is encrypted.
"""

from __future__ import annotations

import ssl
from functools import partial

import httpx

_NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

Http = partial(httpx.Client, trust_env=False, verify=_NO_AUTHORITIES)
get = partial(httpx.get, trust_env=False, verify=_NO_AUTHORITIES)
post = partial(httpx.post, trust_env=False, verify=_NO_AUTHORITIES)

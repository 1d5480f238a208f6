"""API keys: several, with names, compared in constant time.

In: a file of `name:key` lines, or FORESAY_API_KEYS=name:key,name:key; FORESAY_ADMIN_KEY for the admin routes.
Out: the name that a request's key belongs to.
Be careful: keys are kept as hashes, all of them are compared for every request, and none is ever logged.
"""

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError

KEYS, ADMIN = "FORESAY_API_KEYS", "FORESAY_ADMIN_KEY"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
LEAST_CHARACTERS = 16


class Keys:
    """Named keys.

    Attributes:
        names: of all keys, in the order in which they were given.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        """Keeps the hashes of keys by name."""
        self._hashes = {name: _hash(key) for name, key in keys.items()}

    @property
    def names(self) -> list[str]:
        """Whose keys there are."""
        return list(self._hashes)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._hashes)

    def name_of(self, key: str) -> str | None:
        """Whose key it is. Takes as long whether it is the first, the last or none."""
        hashed, found = _hash(key), None
        for name, known in self._hashes.items():
            if hmac.compare_digest(hashed, known):
                found = name
        return found


def read_keys(path: str) -> Keys:
    """The keys in a file, or those of the environment without one.

    Raises:
        InputError: for a file that is missing, a line that is not `name:key`, a name twice, or a short key.
    """
    if path:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the API keys in {path}: {error}") from None
        source = path
    else:
        lines, source = os.environ.get(KEYS, "").split(","), KEYS
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, key = (part.strip() for part in line.partition(":"))
        if not _NAME.fullmatch(name) or len(key) < LEAST_CHARACTERS:
            raise InputError(
                f"{source}, entry {number}: expected name:key, a key having {LEAST_CHARACTERS} characters or more; "
                "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one"
            )
        if name in keys:
            raise InputError(f"{source}, entry {number}: there is a key named {name} already; names are for one key")
        keys[name] = key
    if path and not keys:
        raise InputError(f"{path} holds no API keys; expected a line name:key for each")
    return Keys(keys)


def admin_key() -> Keys:
    """The key of the admin routes, from the environment; without it there are no such routes.

    Raises:
        InputError: if it is short.
    """
    key = os.environ.get(ADMIN, "")
    if key and len(key) < LEAST_CHARACTERS:
        raise InputError(f"{ADMIN} has {len(key)} characters; expected {LEAST_CHARACTERS} or more")
    return Keys({"admin": key} if key else {})


def bearer(header: str) -> str:
    """The key in an Authorization header; empty if there is none."""
    kind, _, key = header.partition(" ")
    return key.strip() if kind.lower() == "bearer" else ""


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()

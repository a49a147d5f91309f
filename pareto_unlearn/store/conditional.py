"""Objects that are written only if they do not exist: one request, of which a store lets one writer win.

pyarrow has no such request; the extra ``s3`` brings obstore, which has. Without it, or in a store of another
kind, whoever wants to write looks first.
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

SETTINGS = {
    "region": "region",
    "access_key": "access_key_id",
    "secret_key": "secret_access_key",
    "session_token": "session_token",
}
"""Options of a URI that pyarrow reads, as obstore names them."""


@dataclass
class Creator:
    """Writes new objects of the bucket that a URI names; can be sent to another process."""

    uri: str
    _store: Any = field(default=None, repr=False)

    def create(self, path: str, data: bytes) -> bool:
        """Return True after writing an object, False if it exists.

        Args:
            path: bucket and key, as pyarrow names objects.
            data: the content.

        Raises:
            OSError: the store did not answer, or refused.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError

        if self._store is None:
            self._store = _open(self.uri)
        try:
            obstore.put(self._store, path.partition("/")[2], data, mode="create")
        except AlreadyExistsError:
            return False
        except BaseError as error:
            raise OSError(f"cannot write {path}: {error}") from error
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "_store": None}


def find_creator(uri: str) -> Creator | None:
    """Return what creates objects for a URI, None where nothing here can."""
    if urlsplit(uri).scheme != "s3":
        return None
    try:
        import obstore.store  # noqa: F401 - whether it is installed
    except ImportError:
        return None
    return Creator(uri)


def _open(uri: str) -> Any:
    from obstore.store import S3Store

    split = urlsplit(uri)
    options = dict(parse_qsl(split.query))
    scheme = options.get("scheme", "https")
    config: Any = {name: options[key] for key, name in SETTINGS.items() if key in options}
    if "endpoint_override" in options:
        config |= {"endpoint": f"{scheme}://{options['endpoint_override']}"}
    if split.username:
        config |= {"access_key_id": split.username, "secret_access_key": split.password or ""}
    bucket = split.hostname or ""
    return S3Store(bucket, config=config, client_options={"allow_http": scheme == "http"})

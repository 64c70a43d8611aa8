"""From a URI to the output folder that it names. Start at `open_folder`."""

import os

from engine.data.storage.folder import OutputFolder
from engine.data.storage.local_folder import LocalFolder
from engine.data.storage.places import is_local, local_path
from engine.data.storage.remote_folder import RemoteFolder


def open_folder(uri: str) -> OutputFolder:
    """Return the output folder that a URI names; nothing in it is made or looked at.

    Raises:
        ConfigError: for a scheme, option or package that is not there.
    """
    return LocalFolder(local_path(uri)) if is_local(uri) else RemoteFolder(uri)


def whole_path(uri: str) -> str:
    """Return a path of this machine from its root on, and any other URI as it is."""
    return os.path.abspath(local_path(uri)) if is_local(uri) else uri

"""A model that lies in a store, brought to this machine for as long as it is looked at. Start at `local_copy`."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

from engine.data.arrow_errors import writing
from engine.data.storage.places import is_local, local_path, place_of
from engine.data.storage.reading import Storage, storage_of
from engine.errors import DataError, EngineError, GraphError

# What may follow the name of a model's files: `model.pb` has `model.json`, `model-7` has `model-7.data-00000-of-00002`.
ENDINGS = r"(\.pb|\.pbtxt|\.json|\.meta|\.index|\.keras|\.h5|\.data-\d{5}-of-\d{5}|-\d{5}-of-\d{5})?"


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[str]:
    """Yield the local path of a model: its own, or that of a copy, which is gone afterwards.

    Of a folder everything is copied, of a file or a prefix what is called like it.

    Raises:
        GraphError: if it is not there, or the store refuses; errors raised while the copy is looked at name the model's
            own place.
        StorageError: if it cannot be read for now.
    """
    if is_local(uri):
        yield local_path(uri)
        return
    place, storage = place_of(uri), storage_of([uri])
    folder, _, name = place.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="icefloe-model-") as copy:
        try:
            _copy(place, storage, copy)
        except DataError as error:
            raise GraphError(error.message) from error
        try:
            yield f"{copy}/{name}"
        except EngineError as error:
            if copy in str(error):
                raise type(error)(str(error).replace(copy, folder)) from error
            raise


def _copy(place: str, storage: Storage, copy: str) -> None:
    folder, _, name = place.rpartition("/")
    found = storage.find(place).name
    if found == "Directory":
        names = [f"{name}/{below}" for below, _ in storage.list_files(place)]
    else:
        stem = re.sub(ENDINGS + "$", "", name)
        pattern = re.compile(re.escape(stem) + ENDINGS)
        names = [each for each in storage.children(folder) if pattern.fullmatch(each)]
        if found == "File" and name not in names:
            names.append(name)
        if not names:
            raise DataError(f"{place}: no such file")
    for each in names:
        target = f"{copy}/{each}"
        with writing(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                file.write(storage.read(f"{folder}/{each}"))

"""A binary file of which no part is read before the file is known to hold it."""

import io
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dme.common.errors import InputError


@dataclass(frozen=True)
class BinaryFile:
    """A file and its size in bytes when it was opened."""

    path: Path
    size: int

    @classmethod
    def opened(cls, path: Path) -> "BinaryFile":
        """Raises InputError for what is no file."""
        if not path.is_file():
            raise InputError(f"{path}: no such file; export it again")
        return cls(path, path.stat().st_size)

    def part(self, offset: int, count: int, name: str) -> bytes:
        """So many bytes from an offset. name: of what they hold, for messages."""
        if offset < 0 or count < 0 or offset + count > self.size:
            found = f"{name} takes bytes {offset} to {offset + count}, the file has {self.size}"
            raise InputError(f"{self.path}: {found}: it ends early or is damaged; export it again")
        try:
            with open(self.path, "rb") as file:
                file.seek(offset)
                content = file.read(count)
        except OSError as e:
            raise InputError(f"{self.path}: cannot be read ({e.strerror}); copy it again") from e
        if len(content) != count:
            raise InputError(f"{self.path}: became shorter while it was read; copy it again")
        return content

    def fields(self, offset: int, layout: struct.Struct, name: str) -> tuple:
        """The values of a structure at an offset."""
        return layout.unpack(self.part(offset, layout.size, name))

    def array(self, offset: int, dtype: np.dtype, shape: tuple, name: str) -> np.ndarray:
        """Numbers of a shape at an offset, read only."""
        dtype = np.dtype(dtype)
        content = self.part(offset, math.prod(shape) * dtype.itemsize, name)
        return np.frombuffer(content, dtype).reshape(shape)


class ClippedFile(io.BufferedReader):
    """A file for libraries: asked for more bytes than it has, it takes no memory for them."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.length = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self.length - self.tell())
        if size is None or size < 0:
            size = left
        return super().read(min(size, left))

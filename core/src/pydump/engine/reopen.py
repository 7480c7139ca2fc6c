"""How another process opens the files of an image again."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydump.errors import SourceError
from pydump.interfaces.backing import Backing, recipe_of
from pydump.interfaces.format import Format, Opened
from pydump.interfaces.image import MemoryImage, Reopen
from pydump.registry import installed


@dataclass(frozen=True, slots=True)
class ReopenFiles(Reopen):
    """The files of a format, each as its storage pickles it.

    Attributes:
        format: The format.
        files: The file, or the parts of a split dump.
        siblings: Files beside them that the reader asked for, by name.
        options: The options of the reader half.
    """

    format: type[Format]
    files: tuple[bytes, ...]
    siblings: Mapping[str, bytes]
    options: Any

    @classmethod
    def of(
        cls, format_: type[Format], files: Sequence[Backing], siblings: Mapping[str, Backing], options: Any
    ) -> Self | None:
        """The recipe for files that are open; None where one of them has no name that another process could open."""
        parts = tuple(found for file in files if (found := recipe_of(file)))
        beside = {name: found for name, file in siblings.items() if (found := recipe_of(file))}
        complete = len(parts) == len(files) and len(beside) == len(siblings)
        return cls(format_, parts, beside, options) if complete else None

    def open(self) -> MemoryImage:
        backings: list[Backing] = []

        def again(recipe: bytes) -> Backing:
            backings.append(pickle.loads(recipe))
            return backings[-1]

        def sibling(name: str) -> Backing | None:
            return again(self.siblings[name]) if name in self.siblings else None

        try:
            files = tuple(map(again, self.files))
            image = self.format.open(Opened(files, sibling, installed().decompressors(), _unpacked, self.options))
        except BaseException:
            for backing in backings:
                backing.close()
            raise
        image.recipe = self
        return image


def _unpacked(file: Backing, offset: int) -> Backing:
    """Nothing was unpacked when the image was opened first; else there is no recipe."""
    raise SourceError(f"{file.path} has changed since it was opened")

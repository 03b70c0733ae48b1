"""XML of unknown origin, read in pieces: only texts of elements that are asked for are kept."""

from collections.abc import Callable
from pathlib import Path
from xml.parsers import expat

from dme.common.errors import InputError

PIECE = 1 << 16  # bytes parsed at once
LONGEST_TOKEN = 1 << 20  # bytes of a tag or its attributes
LONGEST_TEXT = 1 << 20  # characters within an element
DEEPEST = 64  # elements in elements

# called at the end of an element with the names from the root on, joined by /, and its text
Listener = Callable[[str, str], None]


class _Refused(Exception):
    """What is wrong with a file, in words."""


class _Elements:
    """Keeps the text of the elements around the place in the file that is being read."""

    def __init__(self, listener: Listener, wanted: Callable[[str], bool]) -> None:
        self.listener = listener
        self.wanted = wanted
        self.path: list[str] = []
        self.texts: list[list[str] | None] = []  # None of what is not wanted
        self.length = 0

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        self.path.append(name)
        if len(self.path) > DEEPEST:
            raise _Refused(f"elements lie {len(self.path)} deep, expected at most {DEEPEST}")
        self.texts.append([] if self.wanted("/".join(self.path)) else None)
        self.length = 0

    def text(self, text: str) -> None:
        self.length += len(text)
        if self.length > LONGEST_TEXT:
            raise _Refused(f"{self.path[-1]} holds over {LONGEST_TEXT} characters")
        if self.texts[-1] is not None:
            self.texts[-1].append(text)

    def end(self, name: str) -> None:
        parts = self.texts.pop()
        if parts is not None:
            self.listener("/".join(self.path), "".join(parts).strip())
        self.path.pop()

    def declaration(self, *_: object) -> None:
        """Entities and files outside are declared here; no device's export does that."""
        raise _Refused("declares a document type (DOCTYPE), which no device's export does")


def read_elements(path: Path, listener: Listener, wanted: Callable[[str], bool]) -> None:
    """Give all elements whose path is wanted to a listener, in the order in which they end.

    No entity is expanded and no other file opened; memory does not grow with the file. Raises
    InputError for what is no XML, declares a document type, or holds larger pieces than a
    device's export does. What the listener raises as ValueError becomes one, too.
    """
    # what happens at tags and texts
    elements = _Elements(listener, wanted)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = elements.begin
    parser.EndElementHandler = elements.end
    parser.CharacterDataHandler = elements.text
    parser.StartDoctypeDeclHandler = elements.declaration

    # piece by piece; the parser keeps what it has not yet understood, such as an endless tag
    size = 0
    try:
        with open(path, "rb") as file:
            while piece := file.read(PIECE):
                parser.Parse(piece, False)
                size += len(piece)
                if size - max(parser.CurrentByteIndex, 0) > LONGEST_TOKEN:
                    raise _Refused(f"a tag takes over {LONGEST_TOKEN} bytes")
        parser.Parse(b"", True)
    # whatever was wrong, in one line
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror}); copy it again") from e
    except (expat.ExpatError, UnicodeError, LookupError) as e:
        raise InputError(f"{path}: not readable as XML ({e}); export it again") from e
    except (_Refused, ValueError) as e:
        raise InputError(f"{path}: {e}; export it again") from e

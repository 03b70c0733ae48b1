"""What results may not tell: who a patient is, when he was examined, paths of the machine."""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dme.data.volume_record import VolumeRecord

REMOVED = "[removed]"
# characters of a text that is looked for, shorter ones stand everywhere; of a number's
LEAST = 3
LEAST_DIGITS = 5
DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
BETWEEN = r"[\W_]*"  # what may stand between the parts of a text
# no letter or digit before, or a capital after a small letter, as in DoeJohn; and the same behind
BEFORE = r"(?:(?<![^\W_])|(?<=[a-z0-9])(?=[A-Z]))"
AFTER = r"(?:(?![^\W_])|(?<=[a-z])(?=[A-Z0-9]))"


@dataclass
class Privacy:
    """Replaces what the files of devices call private, and paths, in all that is written.

    keep_identifiers: nothing is replaced, keep_dates: dates are not.
    """

    keep_identifiers: bool = False
    keep_dates: bool = False
    private: set[str] = field(default_factory=set)  # texts of the files, as they stand there
    paths: dict[str, str] = field(default_factory=dict)  # path -> what results call it

    def add_inputs(self, inputs: Sequence[str]) -> None:
        """What a user named: of paths from the root of the disk the last part is shown."""
        for text in inputs:
            if os.path.isabs(text):
                self.paths[text.rstrip(os.sep)] = Path(text).name

    def shown(self, record: VolumeRecord, root: Path, name: str) -> str:
        """What results call the file of a volume below a folder: by its name, if it may be told.

        name: of the volume.
        """
        path = record.path
        relative = path.relative_to(root).as_posix()
        if self.hides(relative, record):
            relative = name + path.suffix
        self.paths[str(path)] = relative
        self.private.update(self._looked_for(record))
        return relative

    def hides(self, name: str, record: VolumeRecord) -> bool:
        """Whether a name of files or folders holds what their volume calls private."""
        if self.keep_identifiers:
            return False
        texts = self._looked_for(record)
        return any(re.search(_pattern(text), name, re.IGNORECASE) for text in texts)

    def _looked_for(self, record: VolumeRecord) -> list[str]:
        """Private texts that are long enough."""
        texts = []
        for text in record.private:
            kept = self.keep_dates and DATE.fullmatch(text)
            if not kept and len("".join(_parts(text))) >= LEAST:
                texts.append(text)
        return texts

    def text(self, text: str) -> str:
        """A text without paths of the machine and without private texts."""
        if self.keep_identifiers:
            return text
        # the longest first: others may be parts of them
        for path in sorted(self.paths, key=len, reverse=True):
            text = text.replace(path, self.paths[path])
        for folder, name in ((Path.cwd(), ""), (Path.home(), "~/")):
            text = text.replace(f"{folder}{os.sep}", name)
        # words of patients, but no numbers that may be anything
        for private in sorted(self.private, key=len, reverse=True):
            if not private.isdigit() or len(private) >= LEAST_DIGITS:
                text = re.sub(f"{BEFORE}(?i:{_pattern(private)}){AFTER}", REMOVED, text)
        return text

    def record(self, record: dict) -> dict:
        """Provenance with its command, inputs and settings as results show them."""
        if self.keep_identifiers:
            return record
        # options may have their value behind a =
        words = []
        for word in shlex.split(record["command"]):
            option, equals, value = word.partition("=")
            words.append(f"{option}={self._path(value)}" if equals else self._path(word))
        shown = {
            "command": shlex.join(words),
            "inputs": [self._path(text) for text in record["inputs"]],
        }
        # settings, and where corrections come from
        for name, part in record.items():
            if isinstance(part, dict):
                shown[name] = {key: self._part(value) for key, value in part.items()}
        return record | shown

    def _part(self, value: object) -> object:
        return self._path(value) if isinstance(value, str) else value

    def _path(self, text: str) -> str:
        """A text, which may be a path: of one from the root of the disk the last part, of a
        volume's file what results call it.
        """
        text = self.paths.get(text, text)
        return self.text(Path(text).name if os.path.isabs(text) else text)


def _parts(text: str) -> list[str]:
    """The words and the numbers of a text."""
    return re.findall(r"[^\W\d_]+|\d+", text)


def _pattern(text: str) -> str:
    """A pattern of a text, whatever stands between its parts; of a date in any order."""
    date = DATE.fullmatch(text)
    if date:
        year, month, day = date.groups()
        month = f"0?{int(month)}"
        day = f"0?{int(day)}"
        orders = ((year, month, day), (day, month, year), (month, day, year))
        return "|".join(BETWEEN.join(order) for order in orders)
    return BETWEEN.join(map(re.escape, _parts(text)))

"""Scans that a person labelled, left out of a prediction by a network that learnt from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dme.data.opening import labelled_names
from dme.data.source import listing
from dme.report.scans import Scan
from dme.report.wording import counted


@dataclass
class Labelled:
    """The scans of a folder that are labelled, by their names."""

    folder: Path
    names: Sequence[str]
    left_out: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)  # of volumes

    def without(self, scans: Sequence[Scan], notes: list[str]) -> list[Scan]:
        """The other scans, and those of volumes, which are measured whole; both are noted."""
        done = [scan for scan in scans if scan.name in self.names]
        left_out = [scan.name for scan in done if not scan.volume]
        kept = [scan.name for scan in done if scan.volume]
        if left_out:
            count = counted(len(left_out), "scan")
            notes.append(f"{count} left out, labelled in {self.folder}: {listing(left_out)}")
        if kept:
            count = counted(len(kept), "B-scan")
            notes.append(
                f"{count} labelled in {self.folder} not left out, since volumes are measured "
                f"whole; a network that learnt from them is no test there: {listing(kept)}"
            )
        self.left_out.update(left_out)
        self.kept.update(kept)
        return [scan for scan in scans if scan.name not in left_out]

    def unknown_note(self) -> str:
        """That some of the scans were not met, "" if all were. After all inputs were opened."""
        unknown = [name for name in self.names if name not in self.left_out | self.kept]
        if not unknown:
            return ""
        return (
            f"{len(unknown)} of the {len(self.names)} scans labelled in {self.folder} are none of "
            f"these: {listing(unknown)}; were they labelled under other names?"
        )


def labelled_in(folder: Path | None) -> Labelled | None:
    """Those of a folder, None without one. Raises InputError for one without labels."""
    if folder is None:
        return None
    return Labelled(folder, labelled_names(folder))

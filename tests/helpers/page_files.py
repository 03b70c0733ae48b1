"""Files that a report page brings with it."""

from dme.report.page import FOLDER, VIEWER_SCRIPTS, VIEWER_STYLES

PAGE_FILES = {
    "report.html",
    *(f"{FOLDER}/{name}" for name in ("page.css", "page.js", "scans.js")),
    *(f"{FOLDER}/{name}" for name in (*VIEWER_STYLES, *VIEWER_SCRIPTS)),
}


def scan_files(name: str) -> set[str]:
    """Of one scan."""
    return {f"scans/{name}.png", f"scans/{name}.js", f"thumbnails/{name}.jpg"}

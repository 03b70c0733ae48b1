"""Small files as devices write them, SYNTHETIC: what readers of them are tested on anywhere."""

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

AXIAL_MM = 0.004
LATERAL_MM = 0.01
SPACING_MM = 0.12
NO_DATA = 3.4e38
# of a patient that there is not
PLANTED = {
    "name": "Planteau",
    "patient": "PATNUM77",
    "visit": "VISIT4711",
    "birth": "1950-02-03",
    "exam": "2019-05-06",
    "time": "14:27:39",
}


@dataclass
class Export:
    """B-scans (N, H, W) of reflectivity 0 to 1, and where each begins and ends in mm."""

    pixels: np.ndarray
    places: list[tuple[float, float, float, float]]  # x, y of the begin, x, y of the end
    eye: str = "OD"
    pattern: int = 3
    lines: dict[int, np.ndarray] = field(default_factory=dict)  # number -> rows (W,)
    enface: np.ndarray = field(
        default_factory=lambda: np.arange(400, dtype=np.uint8).reshape(20, 20)
    )
    enface_mm: float = 0.1


def raster(bscans=4, height=40, width=60, spacing_mm=SPACING_MM, top_mm=1.5) -> Export:
    """B-scans side by side, the first the lowest, whose mean brightness tells them apart."""
    pixels = np.random.default_rng(0).random((bscans, height, width), np.float32) * 0.01
    pixels += np.linspace(0.01, 0.05, bscans, dtype=np.float32)[:, None, None]
    end = 0.3 + width * LATERAL_MM
    places = []
    for index in range(bscans):
        y = top_mm - index * spacing_mm
        places.append((0.3, y, end, y))
    return Export(pixels, places)


def write_vol(path: Path, export: Export, **changed) -> Path:
    """A Heidelberg .vol. changed: numbers of the header in place of the right ones."""
    bscans, height, width = export.pixels.shape
    numbers = {
        "width": width,
        "bscans": bscans,
        "height": height,
        "lateral_mm": LATERAL_MM,
        "spacing_mm": abs(export.places[0][1] - export.places[-1][1]) / max(bscans - 1, 1),
        "axial_mm": AXIAL_MM,
        "pattern": export.pattern,
        "bscan_header": 256 + 4 * width * len(export.lines),
    } | changed
    enface_height, enface_width = export.enface.shape
    header = bytearray(2048)
    header[:12] = b"HSF-OCT-103\0"
    struct.pack_into("<3i", header, 12, numbers["width"], numbers["bscans"], numbers["height"])
    scale = (numbers["lateral_mm"], numbers["spacing_mm"], numbers["axial_mm"])
    struct.pack_into("<3d", header, 24, *scale)
    struct.pack_into("<2i", header, 48, enface_width, enface_height)
    struct.pack_into("<2d", header, 56, export.enface_mm, export.enface_mm)
    header[84:86] = export.eye.encode()
    seconds = 14 * 3600 + 27 * 60 + 39  # since 2019-05-06 began
    struct.pack_into("<Q", header, 88, 132015744000000000 + seconds * 10**7)
    struct.pack_into("<2i", header, 96, numbers["pattern"], numbers["bscan_header"])
    header[140:148] = PLANTED["patient"].encode()
    struct.pack_into("<d", header, 164, 18297)  # 1950-02-03, in days
    header[176:185] = PLANTED["visit"].encode()
    content = bytes(header) + export.enface.tobytes()

    # of each B-scan its header, the device's layers, its pixels
    lines = np.stack(list(export.lines.values())) if export.lines else np.zeros((0, width))
    for pixels, place in zip(export.pixels, export.places, strict=True):
        start = bytearray(256)
        start[:11] = b"HSF-BS-103\0"
        struct.pack_into("<i", start, 12, 256 + 4 * width * len(lines))
        struct.pack_into("<4d", start, 16, *place)
        struct.pack_into("<2i", start, 48, len(lines), 256)
        content += bytes(start) + lines.astype("<f4").tobytes() + pixels.astype("<f4").tobytes()
    path.write_bytes(content)
    return path


def write_xml(folder: Path, export: Export, head="", **changed) -> Path:
    """A Spectralis XML export with its pictures. changed: texts in place of the right ones."""
    folder.mkdir(exist_ok=True)
    bscans, height, width = export.pixels.shape
    texts = {
        "count": bscans + 1,
        "width": width,
        "height": height,
        "lateral_mm": LATERAL_MM,
        "axial_mm": AXIAL_MM,
        "eye": export.eye[-1].replace("D", "R").replace("S", "L"),
        "url": "file:///\\\\server\\share\\{name}",
        "extra": "",
    } | changed
    year, month, day = PLANTED["exam"].split("-")
    born = PLANTED["birth"].split("-")
    images = [
        _xml_image(0, "NIR.tif", export.enface.shape[::-1], [export.enface_mm] * 2, "", texts)
    ]
    Image.fromarray(export.enface).save(folder / "NIR.tif")
    for index, (pixels, place) in enumerate(zip(export.pixels, export.places, strict=True)):
        name = f"B{index + 1}.tif"
        grey = np.rint(255 * pixels.clip(0, 1) ** 0.25).astype(np.uint8)
        Image.fromarray(np.stack([grey] * 3, axis=2)).save(folder / name)
        x, y, end_x, end_y = place
        ends = f"<Start><Coord><X>{x}</X><Y>{y}</Y></Coord></Start>"
        ends += f"<End><Coord><X>{end_x}</X><Y>{end_y}</Y></Coord></End>"
        scale = (texts["lateral_mm"], texts["axial_mm"])
        size = (texts["width"], texts["height"])
        images.append(_xml_image(index + 1, name, size, scale, ends, texts))
    path = folder / "export.xml"
    path.write_text(
        f"""{head}<HEDX><BODY><Patient><ID>1</ID><PatientID>{PLANTED["patient"]}</PatientID>
<LastName>{PLANTED["name"]}</LastName><Birthdate><Date><Year>{born[0]}</Year>
<Month>{born[1]}</Month><Day>{born[2]}</Day></Date></Birthdate>
<Study><StudyUID>{PLANTED["visit"]}</StudyUID><StudyDate><Date><Year>{year}</Year>
<Month>{month}</Month><Day>{day}</Day></Date></StudyDate>
<Series><Type>Volume</Type><NumImages>{texts["count"]}</NumImages>{"".join(images)}</Series>
{texts["extra"]}</Study></Patient></BODY></HEDX>"""
    )
    return path


def _xml_image(number, name, size, scale_mm, ends, texts) -> str:
    """One element; size: width, height; scale_mm: across, down."""
    context = f"<Width>{size[0]}</Width><Height>{size[1]}</Height>"
    context += f"<ScaleX>{scale_mm[0]}</ScaleX><ScaleY>{scale_mm[1]}</ScaleY>{ends}"
    url = texts["url"].format(name=name)
    hour, minute, second = PLANTED["time"].split(":")
    return (
        f"<Image><ImageNumber>{number}</ImageNumber><Laterality>{texts['eye']}</Laterality>"
        f"<AcquisitionTime><Time><Hour>{hour}</Hour><Minute>{minute}</Minute>"
        f"<Second>{second}.046</Second></Time></AcquisitionTime>"
        f"<OphthalmicAcquisitionContext>{context}</OphthalmicAcquisitionContext>"
        f"<ImageData><Extension>TIF</Extension><ExamURL>{url}</ExamURL></ImageData></Image>\n"
    )

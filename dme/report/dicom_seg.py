"""DICOM Segmentation: label maps of the frames of a DICOM file, which it references."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dme.common.errors import InputError
from dme.common.files import atomic_path
from dme.data.dicom import read_header

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# what a segmentation needs of its source: nothing of patient, visit, device, time
KEPT = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Modality",
    "SeriesNumber",
    "InstanceNumber",
    "Rows",
    "Columns",
    "NumberOfFrames",
)
PLACES = ("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence")
# of patient and study, which may stand there empty
EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
SERIES_NUMBER = 900  # of segmentations; devices count from 1


@dataclass(frozen=True)
class Segments:
    """What labels from 1 on are called, and what found them."""

    names: Sequence[str]
    network: str
    network_sha256: str
    commit: str  # of this program


def require_highdicom() -> Any:
    """The package. Raises InputError where it is missing."""
    try:
        import highdicom
    except ImportError as e:
        needs = "`write` dicom-seg needs the package highdicom"
        raise InputError(f"{needs}: pip install 'dme[dicom]'") from e
    return highdicom


def write_dicom_seg(
    path: Path,
    source: Path,
    labels: np.ndarray,
    segments: Segments,
    scale_mm: tuple[float, float, float],
    keep: Sequence[str] = (),
) -> None:
    """Write a segment for each name; labels: (frames, H, W), those of its pixels count from 1.

    source: the DICOM file. Its study and frame UIDs are kept, and the keywords `keep` of EMPTY;
    all else of the patient is left out. scale_mm: of columns, rows, frames, for a source that
    places its frames nowhere.
    Raises InputError for a source that cannot be referenced.
    """
    highdicom = require_highdicom()
    # the frames to reference, and the labels that have a segment
    header = _bare(read_header(source), scale_mm, keep)
    used = np.where(labels <= len(segments.names), labels, 0).astype(np.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of empty names
            segmentation = highdicom.seg.Segmentation(
                source_images=[header],
                pixel_array=used,
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=_descriptions(segments),
                series_instance_uid=highdicom.UID(),
                series_number=SERIES_NUMBER,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="dme",
                manufacturer_model_name="dme",
                software_versions=segments.commit,
                device_serial_number="none",
                omit_empty_frames=False,
            )
    except (ValueError, TypeError, AttributeError, KeyError) as e:
        reason = " ".join(str(e).split())[:200]
        raise InputError(f"{source}: cannot be referenced ({reason}); use `write` nifti") from e

    with atomic_path(path) as temporary:
        segmentation.save_as(temporary, enforce_file_format=True)


def _bare(
    header: "Dataset", scale_mm: tuple[float, float, float], keep: Sequence[str]
) -> "Dataset":
    """What KEPT names of a header, its frames' places, and `keep`."""
    from pydicom.dataset import Dataset

    bare = Dataset()
    bare.file_meta = header.file_meta
    for keyword in EMPTY:
        setattr(bare, keyword, header.get(keyword, "") if keyword in keep else "")
    for keyword in KEPT:
        if keyword in header:
            setattr(bare, keyword, copy.deepcopy(header[keyword].value))
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    bare.NumberOfFrames = header.get("NumberOfFrames") or 1
    bare.SharedFunctionalGroupsSequence = [_places(shared[0])]
    bare.PerFrameFunctionalGroupsSequence = [_places(frame) for frame in frames]
    if not _is_placed(bare):
        _place(bare, scale_mm)
    return bare


def _places(group: "Dataset") -> "Dataset":
    """The functional groups that say where frames lie."""
    present = [keyword for keyword in PLACES if group.get(keyword)]
    return _dataset(**{keyword: copy.deepcopy(group[keyword].value) for keyword in present})


def _is_placed(bare: "Dataset") -> bool:
    """Whether all frames lie in the source's frame of reference."""
    frames = bare.PerFrameFunctionalGroupsSequence
    if "FrameOfReferenceUID" not in bare or len(frames) != bare.NumberOfFrames:
        return False
    for keyword in PLACES:
        shared = keyword in bare.SharedFunctionalGroupsSequence[0]
        if not shared and not all(keyword in frame for frame in frames):
            return False
    return True


def _place(bare: "Dataset", scale_mm: tuple[float, float, float]) -> None:
    """Stack the frames in a frame of reference of their own."""
    from pydicom.uid import generate_uid

    # of all frames the same
    column_mm, row_mm, frame_mm = scale_mm
    measures = _dataset(PixelSpacing=[row_mm, column_mm], SliceThickness=frame_mm)
    orientation = _dataset(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared = _dataset(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[orientation])
    frames = []
    for index in range(bare.NumberOfFrames):
        position = _dataset(ImagePositionPatient=[0, 0, index * frame_mm])
        frames.append(_dataset(PlanePositionSequence=[position]))
    reference = _dataset(
        FrameOfReferenceUID=generate_uid(),
        PositionReferenceIndicator="",
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
    )
    bare.update(reference)
    if bare.NumberOfFrames == 1:  # a file without functional groups has them at its root
        bare.update(measures)
        bare.update(orientation)
        bare.update(_dataset(ImagePositionPatient=[0, 0, 0]))


def _dataset(**values: Any) -> "Dataset":
    """Of values by their keywords."""
    from pydicom.dataset import Dataset

    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def _descriptions(segments: Segments) -> list:
    """Of each segment a code, and the network that found it."""
    highdicom = require_highdicom()
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=segments.network,
        family=codes.DCM.ArtificialIntelligence,
        version=segments.network_sha256[:12],
    )

    # what each is: fluid, or a layer, which no public code names
    descriptions = []
    for number, name in enumerate(segments.names, 1):
        is_fluid = name == "fluid"
        category = codes.SCT.MorphologicallyAbnormalStructure if is_fluid else codes.SCT.Tissue
        descriptions.append(
            highdicom.seg.SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=category,
                segmented_property_type=Code(name, "99DME", f"{name} of the retina"),
                algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
            )
        )
    return descriptions

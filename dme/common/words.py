"""Words that users type: choices of command lines, known without NumPy and PyTorch."""

COMMAND_NAMES = (  # of `dme`
    "predict",
    "annotate",
    "suggest",
    "finetune",
    "prepare",
    "weights",
    "cache",
    "export",
)
SIZE_NAMES = ("512", "native", "half", "um")  # keys of dme.inference.sizes.SIZES
HEAD_NAMES = ("fcn", "psp", "deeplabv3", "lraspp")  # keys of dme.nets.segmenter.HEADS
HEADS_OF = {  # backbone -> the heads it takes, the usual one first; dme.nets.segmenter.BACKBONES
    "unet": ("psp", "fcn", "deeplabv3"),
    "mobilenet_v2": ("psp", "fcn", "deeplabv3"),
    "mobilenet_v3_large": ("lraspp",),
    "mobilenet_v3_small": ("lraspp",),
}
BACKBONE_NAMES = tuple(HEADS_OF)
LARGEST_SIDE = 4096  # pixels to which scans are resized: 110 such scans take 2 GB
PRECISIONS = ("float32", "bfloat16")  # dtypes of torch that networks predict in
SYNTHETIC_KINDS = ("phantom", "devices", "cysts")  # of sources whose scans were made up
EYES = ("OD", "OS")  # right, left
IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
# files of devices: end of the name -> module of dme.data whose `open_volume` reads them
VOLUME_READERS = {
    ".vol": "heidelberg_vol",
    ".xml": "heidelberg_xml",
    ".e2e": "heidelberg_e2e",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".mhd": "metaimage",
    ".fda": "topcon",
    ".fds": "topcon",
    ".img": "zeiss_img",
    ".oct": "bioptigen",
}
SCAN_SUFFIXES = (*IMAGE_SUFFIXES, ".npy", ".mat", *VOLUME_READERS)  # of files that hold B-scans
WRITTEN = ("nifti", "tiff", "dicom-seg")  # keys of dme.report.standard_files.FOLDERS

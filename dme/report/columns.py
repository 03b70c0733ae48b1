"""The columns of the tables that `predict` leaves, in order."""

from dme.retina.fluid import FLUID_COLUMNS
from dme.retina.rows import BOUNDARIES, in_tables
from dme.retina.thickness import THICKNESS_COLUMNS
from dme.retina.volume import SCALE

# of a scan: where it is, its fluid, its layers, and the fluid in each of them
_SCAN = ("scan", "source", "volume", "bscan", "height_px", "width_px", *SCALE, "doubt")
_FLUID = (
    "fluid_px",
    "fluid_area_mm2",
    "regions",
    "largest_region_px",
    "largest_region_mm2",
    "mean_fluid_probability",
    "predicted_dice",
    "fluid_area_low_mm2",
    "fluid_area_high_mm2",
)
_LAYERS = ("left_out_columns",) + THICKNESS_COLUMNS["px"] + THICKNESS_COLUMNS["um"]
_FLUID_IN_LAYERS = FLUID_COLUMNS["px"] + FLUID_COLUMNS["mm2"]
_LAYER_FILES = ("boundaries", "profile", "overlay")
SCAN_COLUMNS = {  # by name of the task
    "fluid": _SCAN + _FLUID + ("mask", "overlay"),
    "layers": _SCAN + _LAYERS + _LAYER_FILES,
    "layers+fluid": _SCAN + _FLUID + _LAYERS + _FLUID_IN_LAYERS + ("mask",) + _LAYER_FILES,
}

# of a scan of `predict --edited`: what a person made of it
EDITED = ("edited", "edited_added_px", "edited_removed_px", "edited_boundary_shift_px")

# of a volume: its B-scans and its scale, then what was measured, and around which centre
_BSCANS = (
    "bscans",
    "missing_bscans",
    "doubtful_bscans",
    "first_bscan",
    "last_bscan",
    "first_measured",
    "last_measured",
)
_VOLUME = ("volume",) + _BSCANS + ("height_px", "width_px") + SCALE
_FLUID_VOLUME = ("fluid_px", "fluid_volume_mm3")
_RETINA = ("retina_thickness_px", "retina_thickness_um", "central_subfield_thickness_um")
_LEFT_OUT = ("mended_percent", "left_out_percent")
_PLACE = ("eye", "fovea_column", "fovea_bscan", "fovea_from", "fovea_confidence")
VOLUME_COLUMNS = {  # by name of the task
    "fluid": _VOLUME + _FLUID_VOLUME + _PLACE + ("map", "enface"),
    "layers": _VOLUME + _RETINA + _LEFT_OUT + _PLACE + ("retina_map", "enface"),
    "layers+fluid": _VOLUME
    + _FLUID_VOLUME
    + _RETINA
    + _LEFT_OUT
    + _PLACE
    + ("map", "retina_map", "enface"),
}

SECTOR_COLUMNS = ("volume", "sector", "covered_percent", "mean_um", "volume_mm3")
ROW_COLUMNS = ("column",) + tuple(f"{in_tables(name)}_px" for name in BOUNDARIES)

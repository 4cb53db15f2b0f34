"""What automatic mode looks for: the settings of a search, checked before a model is loaded for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .messages import short

#: Grid points of one search, all crops together: what takes days, gigabytes, or never ends is refused instead of begun.
MAX_GRID_POINTS = 1_000_000

#: Settings that choose among the masks of a search. All others have a part in what these are.
FILTERS = frozenset(
    (
        "pred_iou_thresh",
        "stability_score_thresh",
        "box_nms_thresh",
        "crop_nms_thresh",
        "min_mask_region_area",
        "min_mask_area",
        "max_mask_area",
    )
)


def check_areas(min_mask_area: int, max_mask_area: int) -> None:
    """Refuse limits that no mask can keep.

    Raises:
        ValueError: the smallest area of masks is above the largest.
    """
    if 0 < max_mask_area < min_mask_area:
        raise ValueError(
            f"min_mask_area: {short(min_mask_area)} is not accepted with max_mask_area: {short(max_mask_area)}; accepted is a "
            "smallest area up to the largest, or 0 for no limit: set both in one call."
        )


@dataclass(frozen=True)
class AutomaticSettings:
    """What automatic mode looks for; names, meaning and defaults are SAM2AutomaticMaskGenerator's, as far as it has them.

    `point_grids` holds one (N, 2) array in [0, 1] per crop layer and replaces `points_per_side`. `min_mask_region_area` is in
    pixels of the image, as in the first SAM: holes and islands that are smaller are removed. Of what is left, masks of fewer
    pixels than `min_mask_area` or of more than `max_mask_area` are dropped; 0: no limit.
    """

    points_per_side: int | None = 32
    point_grids: list[npt.NDArray[np.float64]] | None = None
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.8
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    mask_threshold: float = 0.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 0
    min_mask_area: int = 0
    max_mask_area: int = 0
    use_m2m: bool = False
    multimask_output: bool = True

    @property
    def masks_per_point(self) -> int:
        """Masks that the model gives for each point."""
        return 3 if self.multimask_output else 1

    def points_of_side(self, layer: int) -> int:
        """Grid points along one side of a crop of that layer; only with points_per_side."""
        # A factor that leaves no point in a deep layer would divide by zero inside sam2; one point stays.
        return max((self.points_per_side or 0) // self.crop_n_points_downscale_factor**layer, 1)

    def without_filters(self) -> tuple[object, ...]:
        """What tells apart searches that decode something else, of one image by one model."""
        values = {name: value for name, value in vars(self).items() if name not in FILTERS}
        values["point_grids"] = tuple(np.asarray(grid, np.float64).tobytes() for grid in self.point_grids or ())
        return tuple(values.items())

    def check(self) -> None:
        """Refuse a search that contradicts itself, that would not end, or whose grid would not fit into memory.

        Raises:
            ValueError: neither or both of points_per_side and point_grids, not one grid for each layer, more than
                `MAX_GRID_POINTS` in all crops together, or a smallest area of masks above the largest.
        """
        check_areas(self.min_mask_area, self.max_mask_area)
        layers = self.crop_n_layers + 1
        if (self.points_per_side is None) == (self.point_grids is None):
            raise ValueError(
                "points_per_side, point_grids: accepted is a number of points per side, or points_per_side = None together "
                "with point_grids."
            )
        if self.point_grids is not None and len(self.point_grids) != layers:
            raise ValueError(
                f"point_grids: {len(self.point_grids)} grid(s) for {short(layers)} layer(s); accepted is one grid for the "
                f"image and one for each of crop_n_layers = {short(self.crop_n_layers)}."
            )
        points = 0
        for layer in range(layers):
            of_crop = self.points_of_side(layer) ** 2 if self.point_grids is None else len(self.point_grids[layer])
            points += 4**layer * of_crop
            if points > MAX_GRID_POINTS:
                side = short(self.points_per_side)
                grid = f"points_per_side: {side}" if self.point_grids is None else "point_grids"
                raise ValueError(
                    f"{grid} with crop_n_layers: {short(self.crop_n_layers)} makes more than {MAX_GRID_POINTS} points to ask "
                    "the model at; accepted is fewer points per side, such as 32, or fewer crop layers, such as 1."
                )

    def keeps(self, areas: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """(N,) bool: which masks of these areas (N,), in pixels of the image, are within the limits."""
        kept = areas >= self.min_mask_area
        return kept & (areas <= self.max_mask_area) if self.max_mask_area else kept

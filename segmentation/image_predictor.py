"""The model's two halves: an image becomes an embedding, and an embedding with prompts becomes masks.

What SAM2ImagePredictor does, for any `image_size` of the model, with masks at the decoder's resolution. Embeddings of the last
images are kept, so that a new prompt on the same image encodes nothing.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import Normalize, Resize

from .image_encoder import LeanImageEncoder
from .memory import BatchSize, in_batches
from .objects import ObjectBatch
from .sam2_package import SAM2Base, flat_features

#: Image embeddings kept per model, and the bytes that they may take together (one of a released model is 16 MB).
MAX_EMBEDDINGS = 8
MAX_EMBEDDING_BYTES = 256 << 20

# As in sam2.utils.transforms: the colours of ImageNet.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Embedding:
    """What the model's image encoder makes of an image.

    Attributes:
        image_embed: (1, C, h, w).
        high_res_feats: (1, C / 8, 4 h, 4 w) and (1, C / 4, 2 h, 2 w).
    """

    image_embed: Tensor
    high_res_feats: list[Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return sum(t.nbytes for t in (self.image_embed, *self.high_res_feats))


class ImagePredictor:
    """Embeds images and decodes prompts with one model.

    Args:
        model: in eval mode, on its device.
    """

    def __init__(self, model: SAM2Base) -> None:
        self.model = model
        self.device: torch.device = model.device
        self.encoded = 0  #: how many images have been encoded, as opposed to remembered
        side = model.image_size
        self._sizes = [(side // stride,) * 2 for stride in (4, 8, 16)]
        # Not compiled as sam2 does it: TorchScript rounds mean and std to torch's default dtype.
        self._prepare = torch.nn.Sequential(Resize((side, side)), Normalize(_MEAN, _STD))
        lean = self.device.type == "cpu" and LeanImageEncoder.fits(model)
        self._feature_maps: Callable[[Tensor], list[Tensor]] = (
            LeanImageEncoder(model) if lean else self._feature_maps_of_sam2
        )
        # The position encoding of the embedding's pixels, a constant. On a GPU autocast has a part in what it computes.
        self._image_pe: Tensor | None = None
        if self.device.type == "cpu":
            with torch.no_grad():
                self._image_pe = model.sam_prompt_encoder.get_dense_pe()
        self._kept: OrderedDict[bytes, Embedding] = OrderedDict()
        self._last_image: tuple[npt.NDArray[np.uint8], bytes] | None = None

    @property
    def embedding_hw(self) -> tuple[int, int]:
        """Height and width of an image embedding."""
        return self._sizes[-1]

    @torch.inference_mode()
    def embed(self, image: npt.NDArray[np.uint8]) -> Embedding:
        """The embedding of an image (H, W, 3) uint8 RGB, remembered from before or made now.

        Raises:
            GPUMemoryError: a GPU has no memory for it, even alone.
        """
        key = self.key(image)
        if key not in self._kept:
            (self._kept[key],) = in_batches(
                [image], BatchSize(1), lambda images: self._encode(images[0]), self.forget_images, "image"
            )
            self._forget_old()
        self._kept.move_to_end(key)
        return self._kept[key]

    @torch.inference_mode()
    def decode(
        self,
        embedding: Embedding,
        coords: Tensor | None,
        labels: Tensor | None,
        mask_input: Tensor | None = None,
        multimask_output: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Masks of N objects of one kind, as SAM2ImagePredictor._predict gives them before it enlarges them.

        Args:
            embedding: of the image.
            coords: (N, P, 2) float32, xy in pixels of the model's input (see :meth:`as_points`), or None.
            labels: (N, P) int32, or None.
            mask_input: (N, 1, 4 h, 4 w) logits of a mask for each object, as a further prompt.
            multimask_output: three masks for each object instead of one.

        Returns:
            Logits (N, C, 4 h, 4 w) and predicted IoUs (N, C); C is 3 or 1.
        """
        sparse, dense = self.model.sam_prompt_encoder(points=(coords, labels), boxes=None, masks=mask_input)
        logits, ious, _, _ = self.model.sam_mask_decoder(
            image_embeddings=embedding.image_embed,
            image_pe=self.model.sam_prompt_encoder.get_dense_pe() if self._image_pe is None else self._image_pe,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask_output,
            repeat_image=coords is not None and len(coords) > 1,
            high_res_features=embedding.high_res_feats,
        )
        return logits, ious

    def decode_objects(
        self, embedding: Embedding, batch: ObjectBatch, image_hw: tuple[int, int], multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """:meth:`decode` for objects in pixels of an image of that height and width."""
        return self.decode(embedding, *self.as_points(batch, image_hw), multimask_output=multimask_output)

    def as_points(self, batch: ObjectBatch, image_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Objects in pixels of an image of that height and width as points of the model's input: (N, P, 2) float32, and their
        labels (N, P) int32. A box is two points: its corners, labelled 2 and 3, before the others."""
        coords, labels = batch.point_coords, batch.point_labels
        if batch.boxes is not None:
            corners, corner_labels = batch.boxes.reshape(-1, 2, 2), np.full((len(batch.boxes), 2), (2, 3))
            coords = corners if coords is None else np.concatenate([corners, coords], axis=1)
            labels = corner_labels if labels is None else np.concatenate([corner_labels, labels], axis=1)
        on_device = torch.as_tensor(coords, dtype=torch.float32, device=self.device)
        return self.to_model(on_device, image_hw), torch.as_tensor(labels, dtype=torch.int32, device=self.device)

    def to_model(self, coords: Tensor, image_hw: tuple[int, int]) -> Tensor:
        """Pixels xy (…, 2) of an image of that height and width as pixels of the model's input."""
        # By numbers, and divided first: as SAM2Transforms.transform_coords rounds.
        height, width = image_hw
        return torch.stack([coords[..., 0] / width, coords[..., 1] / height], dim=-1) * self.model.image_size

    @staticmethod
    def upscale(logits: Tensor, image_hw: tuple[int, int]) -> Tensor:
        """Logits (N, C, h, w) at the size of the image, as sam2's SAM2Transforms.postprocess_masks does."""
        return F.interpolate(logits.float(), image_hw, mode="bilinear", align_corners=False)

    def forget_images(self, but: Embedding | None = None) -> None:
        """Free the embeddings of all images but the one that is in use."""
        self._kept = OrderedDict((key, kept) for key, kept in self._kept.items() if kept is but)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def key(self, image: npt.NDArray[np.uint8]) -> bytes:
        """What tells an image (H, W, 3) uint8 from others. The last one is recognised by its pixels, in a twentieth of the
        time."""
        if self._last_image is None or not np.array_equal(image, self._last_image[0]):
            image = np.array(image, order="C")  # a copy: the caller may go on to write into its own
            digest = hashlib.blake2b(image.data, digest_size=16).digest()
            self._last_image = (image, digest + repr(image.shape).encode())
        return self._last_image[1]

    def _encode(self, image: npt.NDArray[np.uint8]) -> Embedding:
        self.encoded += 1
        # As torchvision's ToTensor, but float32 whatever torch's default is, and with one array of the image's size less.
        # Torch warns of an array that cannot be written to.
        pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)
        pixels = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        features = self._feature_maps(self._prepare(pixels)[None].to(self.device))
        if self.model.directly_add_no_mem_embed:
            features[-1] = features[-1] + self.model.no_mem_embed
        # (h * w, 1, C), from fine to coarse, to the (1, C, h, w) that the decoder takes
        maps = [f.permute(1, 2, 0).reshape(1, -1, *hw) for f, hw in zip(features, self._sizes, strict=True)]
        return Embedding(maps[-1], maps[:-1])

    def _feature_maps_of_sam2(self, pixels: Tensor) -> list[Tensor]:
        return flat_features(self.model, self.model.forward_image(pixels)["backbone_fpn"])

    def _forget_old(self) -> None:
        def kept_bytes() -> int:
            return sum(kept.nbytes for kept in self._kept.values())

        while len(self._kept) > MAX_EMBEDDINGS or (len(self._kept) > 1 and kept_bytes() > MAX_EMBEDDING_BYTES):
            self._kept.popitem(last=False)

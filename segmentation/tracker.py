"""Objects through the frames of a video, fed one at a time: what SAM2VideoPredictor does, without knowing the frames ahead.

The image encoder runs once per frame, whatever the number of objects. Of each object is remembered the frame in which it was
prompted, what was seen of it in the last few frames (six in a released model) and, from more of them (fifteen), a pointer: a
vector that says which object it is. So what is remembered does not grow with the length of the video. Objects that were
prompted in the same frame share that history, and go through the model together.

The masks are those of sam2's SAM2VideoPredictor for the same frames and prompts, with its `fill_hole_area` at 0, up to float
rounding. It computes one object at a time. One difference remains: the models of SAM 2.1 encode how old a pointer is as a
fraction of the longest age, and this one is shorter in a video of less than 16 frames, which is only known to who says how
long the video is (`frame_count`). Else a video counts as a long one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .image_predictor import Embedding, ImagePredictor
from .masks import Masks
from .memory import BatchSize, in_batches
from .memory_attention import LeanMemoryAttention
from .objects import Object, kinds, stacked
from .progress import Progress
from .sam2_package import SeenMasks, decode_in_video, encode_memory, get_1d_sine_pe, masks_in_video

#: Objects that go through the model together: each takes some 40 MB there with a released model.
MAX_FOLLOWED_AT_ONCE = 8


@dataclass(frozen=True)
class _Memory:
    """What is remembered of N objects from one frame.

    Attributes:
        frame: its number in the sequence.
        tokens: (N, P, M) bfloat16; None where the frame is too long ago.
        pointers: (N, C).
    """

    frame: int
    tokens: Tensor | None
    pointers: Tensor


@dataclass
class _Group:
    """Objects that were prompted in the same frame: the memory of that one, and those of the last frames, oldest first."""

    prompted: _Memory
    recent: list[_Memory] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prompted.pointers)


class Tracker:
    """Follows objects through one video: :meth:`follow` for every frame, the first too, then :meth:`add` for new objects in it.

    To be used where the predictor may compute (:meth:`.Segmenter.follow`). A frame that fails changes nothing.

    Args:
        predictor: of the model.
        frame_count: how many frames the video has, where that is known.
    """

    def __init__(self, predictor: ImagePredictor, frame_count: int | None = None) -> None:
        self.predictor = predictor
        self._model = model = predictor.model
        self._groups: list[_Group] = []
        self._frame = -1  # the number of the current one
        self._pointers = min(model.max_obj_ptrs_in_encoder, frame_count or model.max_obj_ptrs_in_encoder)
        self._size = BatchSize(MAX_FOLLOWED_AT_ONCE)
        self._memory_position: Tensor | None = None  # (P, M)
        self._last: tuple[Embedding, Tensor] | None = None  # the embedding of a frame, and its features
        lean = predictor.device.type == "cpu" and LeanMemoryAttention.fits(model)
        self._attend: Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor] = (
            LeanMemoryAttention(model) if lean else self._attend_as_sam2
        )

    def __len__(self) -> int:
        """How many objects are followed."""
        return sum(len(group) for group in self._groups)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Leave the tracker as it was before, if what is done here fails: of one frame all objects, or none."""
        frame, groups = self._frame, [replace(group, recent=list(group.recent)) for group in self._groups]
        try:
            yield
        except BaseException:
            self._frame, self._groups = frame, groups
            raise

    @property
    def nbytes(self) -> int:
        """Bytes that the memories take."""
        memories = [memory for group in self._groups for memory in (group.prompted, *group.recent)]
        return sum(part.nbytes for memory in memories for part in (memory.tokens, memory.pointers) if part is not None)

    def follow(self, embedding: Embedding, progress: Progress | None = None) -> SeenMasks | None:
        """The objects in the next frame, in the order in which they were added; None where there are none yet.

        Args:
            embedding: of the frame.
            progress: called with the objects done and in all; what it raises leaves the tracker in the frame before.
        """
        number = self._frame + 1
        total, done = len(self), 0
        found: list[tuple[SeenMasks, Tensor]] = []
        for group in self._groups:
            parts: list[tuple[SeenMasks, Tensor]] = []
            for part in self._follow_group(group, number, embedding):
                parts.append(part)
                done += len(part[0].ious)
                if progress is not None:
                    progress(done, total)
            found.append((_joined([seen for seen, _ in parts]), torch.cat([tokens for _, tokens in parts])))
        self._frame = number
        for group, (seen, tokens) in zip(self._groups, found, strict=True):
            group.recent.append(_Memory(number, tokens, seen.pointers))
            self._forget(group)
        return _joined([seen for seen, _ in found]) if found else None

    def _follow_group(self, group: _Group, number: int, embedding: Embedding) -> Iterator[tuple[SeenMasks, Tensor]]:
        """The objects of a group in frame `number`, some at a time, with what is to be remembered of them."""
        features = self._bare(embedding)
        position = self._model.image_encoder.neck.position_encoding(features)
        memory_position, pointers = self._remembered_positions(group, number)

        def compute(places: range) -> tuple[SeenMasks, Tensor]:
            memory = self._remembered(group, slice(places.start, places.stop))
            conditioned = self._attend(features, position, memory, memory_position, pointers)
            seen = decode_in_video(self._model, conditioned, embedding.high_res_feats, None)
            return seen, self._encode(features, seen, False)

        return in_batches(range(len(group)), self._size, compute, self._make_room(embedding), "object")

    def add(
        self, embedding: Embedding, objects: Sequence[Object], image_hw: tuple[int, int], at_most: int
    ) -> tuple[list[int], SeenMasks | None]:
        """Begin to follow objects that are prompted in the current frame.

        Args:
            embedding: of the frame.
            objects: in pixels of the image; those without points and box are left out.
            image_hw: height and width of the image.
            at_most: of more objects those with the highest predicted IoU are followed.

        Returns:
            The places in `objects` of those that are followed from now on, in their order, and how they are seen here.
        """
        places: list[int] = []
        seen: list[SeenMasks] = []

        def compute(of_kind: list[int]) -> SeenMasks:
            points = self.predictor.as_points(stacked([objects[k] for k in of_kind]), image_hw)
            features = embedding.image_embed.expand(len(of_kind), -1, -1, -1)
            return decode_in_video(self._model, features, embedding.high_res_feats, points)

        for of_kind in kinds(objects):
            places += of_kind
            seen += in_batches(of_kind, self._size, compute, self._make_room(embedding), "object")
        if not places or at_most < 1:
            return [], None
        found = _joined(seen)
        best = found.ious.argsort(descending=True, stable=True)[:at_most].tolist()
        order = sorted(best, key=lambda k: places[k])
        found = _taken(found, order)
        self._begin(embedding, found)
        return [places[k] for k in order], found

    def add_masks(self, embedding: Embedding, masks: Masks) -> None:
        """Begin to follow objects whose masks in the current frame are known, as SAM2VideoPredictor.add_new_mask does."""
        side = self._model.image_size

        def compute(places: range) -> SeenMasks:
            given = torch.from_numpy(np.stack([masks[k] for k in places]))[:, None].float().to(self.predictor.device)
            if given.shape[-2:] != (side, side):
                given = F.interpolate(given, (side, side), mode="bilinear", align_corners=False, antialias=True)
                given = (given >= 0.5).float()
            features = self._bare(embedding).expand(len(given), -1, -1, -1)
            return masks_in_video(self._model, features, embedding.high_res_feats, given)

        seen = list(in_batches(range(len(masks)), self._size, compute, self._make_room(embedding), "object"))
        if seen:
            self._begin(embedding, _joined(seen))

    def _begin(self, embedding: Embedding, seen: SeenMasks) -> None:
        features = self._bare(embedding)
        tokens = in_batches(
            range(len(seen.ious)),
            self._size,
            lambda places: self._encode(features, _taken(seen, list(places)), True),
            self._make_room(embedding),
            "object",
        )
        self._groups.append(_Group(_Memory(self._frame, torch.cat(list(tokens)), seen.pointers)))

    def _encode(self, features: Tensor, seen: SeenMasks, is_prompted: bool) -> Tensor:
        """(N, P, M): what is to be remembered of objects of a frame, in bfloat16, as sam2 keeps it."""
        side = self._model.image_size
        masks = F.interpolate(seen.logits, (side, side), mode="bilinear", align_corners=False)
        tokens, position = encode_memory(self._model, features, masks, seen.scores, is_prompted)
        if self._memory_position is None:
            self._memory_position = position
        return tokens.to(torch.bfloat16)

    def _remembered(self, group: _Group, places: slice) -> Tensor:
        """(N, K, M) of the objects at those places of a group: the frame of the prompt, the last frames, the pointers."""
        kept = [group.prompted, *(memory for memory in group.recent if memory.tokens is not None)]
        tokens = [memory.tokens[places].float() for memory in kept if memory.tokens is not None]
        if self._model.use_obj_ptrs_in_encoder:
            # A pointer has more channels than a token has: it is several tokens.
            pointers = torch.stack([memory.pointers[places] for memory in self._with_pointers(group)], dim=1)
            tokens.append(pointers.float().reshape(len(pointers), -1, self._model.mem_dim))
        return torch.cat(tokens, dim=1)

    def _remembered_positions(self, group: _Group, number: int) -> tuple[Tensor, int]:
        """(K, M), the position encoding of :meth:`_remembered` for frame `number`, and how many of the K are of pointers."""
        model = self._model
        assert self._memory_position is not None  # there is a group, so something was encoded
        # How long ago a frame was counts from 1; the frame of the prompt has a number of its own, whenever it was.
        ages = [model.num_maskmem, *(number - memory.frame for memory in group.recent if memory.tokens is not None)]
        positions = [self._memory_position + model.maskmem_tpos_enc[age - 1, 0] for age in ages]
        if not model.use_obj_ptrs_in_encoder:
            return torch.cat(positions), 0
        memories = self._with_pointers(group)
        parts = model.hidden_dim // model.mem_dim
        of_pointers = self._memory_position.new_zeros(len(memories), model.mem_dim)
        if model.add_tpos_enc_to_obj_ptrs:
            pointer_ages = torch.tensor([number - memory.frame for memory in memories], device=of_pointers.device)
            channels = model.hidden_dim if model.proj_tpos_enc_in_obj_ptrs else model.mem_dim
            # In a video of one frame, where this would divide by zero, nothing is ever followed.
            of_pointers = model.obj_ptr_tpos_proj(get_1d_sine_pe(pointer_ages / (self._pointers - 1), dim=channels))
        positions.append(of_pointers.repeat_interleave(parts, dim=0))
        return torch.cat(positions), len(memories) * parts

    def _with_pointers(self, group: _Group) -> list[_Memory]:
        """The memories of a group whose pointers count: of the prompt, then the last ones, newest first."""
        last = max(len(group.recent) - (self._pointers - 1), 0)
        return [group.prompted, *reversed(group.recent[last:])]

    def _forget(self, group: _Group) -> None:
        """Keep of the last frames what the next one can need."""
        with_tokens = self._model.num_maskmem - 1
        kept = group.recent[-max(self._pointers - 1, with_tokens) :]
        old = max(len(kept) - with_tokens, 0)
        group.recent = [replace(memory, tokens=None) for memory in kept[:old]] + kept[old:]

    def _bare(self, embedding: Embedding) -> Tensor:
        """(1, C, h, w): the features of a frame as they were before the embedding for "no memory" was added."""
        if not self._model.directly_add_no_mem_embed:
            return embedding.image_embed
        if self._last is None or self._last[0] is not embedding:
            no_memory = self._model.no_mem_embed.view(1, -1, 1, 1)
            self._last = embedding, embedding.image_embed - no_memory
        return self._last[1]

    def _attend_as_sam2(
        self, features: Tensor, position: Tensor, memory: Tensor, memory_position: Tensor, pointers: int
    ) -> Tensor:
        """(N, C, h, w), as :class:`.LeanMemoryAttention` gives it, by sam2's own memory attention."""
        count = len(memory)
        tokens, places = (x.flatten(2).permute(2, 0, 1).expand(-1, count, -1) for x in (features, position))
        found = self._model.memory_attention(
            curr=[tokens],
            curr_pos=[places],
            memory=memory.transpose(0, 1),
            memory_pos=memory_position[:, None].expand(-1, count, -1),
            num_obj_ptr_tokens=pointers,
        )
        return found.permute(1, 2, 0).reshape(count, *features.shape[1:])

    def _make_room(self, embedding: Embedding) -> Callable[[], None]:
        return lambda: self.predictor.forget_images(embedding)


def _joined(seen: Sequence[SeenMasks]) -> SeenMasks:
    """Several batches as one."""
    return SeenMasks(
        *(torch.cat([getattr(s, name) for s in seen]) for name in ("logits", "ious", "pointers", "scores"))
    )


def _taken(seen: SeenMasks, order: list[int]) -> SeenMasks:
    """The objects at the places `order`, in that order."""
    return SeenMasks(seen.logits[order], seen.ious[order], seen.pointers[order], seen.scores[order])

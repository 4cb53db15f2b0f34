"""Write the weights of a stage as sam2_hiera_nano.pt: {"model": weights} in half precision, checked.

    python export.py                      # the stage "scores" of the cache folder, into this folder
    python export.py STAGE.pt WEIGHTS.pt

    python export.py --mean-with sam2_hiera_nano.pt    # the mean of them and of exported weights
    python export.py FOLLOW.pt --times 1  # after train_videos.py, which goes on from exported weights

The logits are multiplied by train.py's LOGIT_SCALE, unless --times says otherwise.
"""

import argparse
import logging
import os
from pathlib import Path

import torch
from hogwild import save, stage_file
from train import HERE, LOGIT_SCALE, build, scale_logits

MAX_BYTES = 10_000_000
IMAGE_SIZE = 512


def main() -> None:
    """Read, halve, check, write; the old file stays until the new one has passed."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("stage", type=Path, nargs="?", default=stage_file("scores"), help="weights of a stage of train.py")
    p.add_argument("weights", type=Path, nargs="?", default=HERE / "sam2_hiera_nano.pt", help="file to write")
    p.add_argument("--times", type=float, default=LOGIT_SCALE, help="what the logits are multiplied with")
    p.add_argument(
        "--mean-with",
        type=Path,
        metavar="WEIGHTS",
        help="write the mean of the stage and of weights exported with the same --times",
    )
    args = p.parse_args()
    model = build(IMAGE_SIZE)
    model.load_state_dict(torch.load(args.stage, map_location="cpu", weights_only=True)["model"])
    scale_logits(model, args.times)
    if args.mean_with:
        other = torch.load(args.mean_with, map_location="cpu", weights_only=True)["model"]
        model.load_state_dict({name: (value + other[name].float()) / 2 for name, value in model.state_dict().items()})
    candidate = args.weights.with_name(args.weights.name + ".new")
    save({"model": {name: value.half() for name, value in model.state_dict().items()}}, candidate)
    written = torch.load(candidate, weights_only=True)["model"]
    build(IMAGE_SIZE).load_state_dict(written)
    if not all(value.isfinite().all() for value in written.values()):
        raise ValueError(f"{args.stage} has weights that half precision cannot hold")
    if (size := candidate.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{args.stage} takes {size} bytes, expected at most {MAX_BYTES}")
    os.replace(candidate, args.weights)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.info("%s: %.1f MB", args.weights, size / 1e6)


if __name__ == "__main__":
    main()

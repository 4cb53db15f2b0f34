"""Write the weights of a stage as sam2_hiera_nano.pt: {"model": weights} in half precision, checked.

python export.py stage.pt sam2_hiera_nano.pt
"""

import argparse
import os
from pathlib import Path

import torch
from train import build, save

MAX_BYTES = 10_000_000
IMAGE_SIZE = 512


def main() -> None:
    """Read, halve, check, write; the old file stays until the new one has passed."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("stage", type=Path, help="OUT of train.py")
    p.add_argument("weights", type=Path, help="file to write")
    args = p.parse_args()
    state = torch.load(args.stage, map_location="cpu", weights_only=True)["model"]
    candidate = args.weights.with_name(args.weights.name + ".new")
    save({"model": {name: value.half() for name, value in state.items()}}, candidate)
    written = torch.load(candidate, weights_only=True)["model"]
    build(IMAGE_SIZE).load_state_dict({name: value.float() for name, value in written.items()})
    if not all(value.isfinite().all() for value in written.values()):
        raise ValueError(f"{args.stage} has weights that half precision cannot hold")
    if (size := candidate.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{args.stage} takes {size} bytes, expected at most {MAX_BYTES}")
    os.replace(candidate, args.weights)
    print(f"{args.weights}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

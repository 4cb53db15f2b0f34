"""Ikomia's types on one side, `segmentation/`'s on the other."""

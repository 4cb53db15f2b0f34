"""The catalogue of models: which there are, and where their checkpoints and configs come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .messages import not_accepted

MODELS_FOLDER = Path(__file__).resolve().parent.parent / "models"
HOST = "https://dl.fbaipublicfiles.com/segment_anything_2"


@dataclass(frozen=True)
class Checkpoint:
    """One model that `model_name` accepts."""

    model_name: str
    config: str
    """Name inside the sam2 package, or the absolute path of a YAML file."""
    url: str | None
    """None of the model that comes with the plugin."""
    sha256: str | None
    bytes: int | None
    """None where the size is not known."""
    parameters_millions: float


CATALOGUE: dict[str, Checkpoint] = {
    checkpoint.model_name: checkpoint
    for checkpoint in (
        Checkpoint(
            "sam2_hiera_tiny",
            "configs/sam2/sam2_hiera_t.yaml",
            f"{HOST}/072824/sam2_hiera_tiny.pt",
            "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
            155906050,
            38.9,
        ),
        Checkpoint(
            "sam2_hiera_small",
            "configs/sam2/sam2_hiera_s.yaml",
            f"{HOST}/072824/sam2_hiera_small.pt",
            "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
            184309650,
            46.0,
        ),
        Checkpoint(
            "sam2_hiera_base_plus",
            "configs/sam2/sam2_hiera_b+.yaml",
            f"{HOST}/072824/sam2_hiera_base_plus.pt",
            "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
            None,
            80.8,
        ),
        Checkpoint(
            "sam2_hiera_large",
            "configs/sam2/sam2_hiera_l.yaml",
            f"{HOST}/072824/sam2_hiera_large.pt",
            "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
            897952466,
            224.4,
        ),
        Checkpoint(
            "sam2.1_hiera_tiny",
            "configs/sam2.1/sam2.1_hiera_t.yaml",
            f"{HOST}/092824/sam2.1_hiera_tiny.pt",
            "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
            156008466,
            38.9,
        ),
        Checkpoint(
            "sam2.1_hiera_small",
            "configs/sam2.1/sam2.1_hiera_s.yaml",
            f"{HOST}/092824/sam2.1_hiera_small.pt",
            "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
            184416285,
            46.0,
        ),
        Checkpoint(
            "sam2.1_hiera_base_plus",
            "configs/sam2.1/sam2.1_hiera_b+.yaml",
            f"{HOST}/092824/sam2.1_hiera_base_plus.pt",
            "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
            323606802,
            80.8,
        ),
        Checkpoint(
            "sam2.1_hiera_large",
            "configs/sam2.1/sam2.1_hiera_l.yaml",
            f"{HOST}/092824/sam2.1_hiera_large.pt",
            "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
            898083611,
            224.4,
        ),
        # Versioned with the code, so there is nothing to verify.
        Checkpoint("sam2_hiera_nano", str(MODELS_FOLDER / "sam2_hiera_nano.yaml"), None, None, None, 4.7),
    )
}
MODEL_NAMES: tuple[str, ...] = tuple(CATALOGUE)


def catalogue_entry(model_name: str) -> Checkpoint:
    """The catalogue's entry; ValueError for an unknown name."""
    if model_name not in CATALOGUE:
        raise ValueError(not_accepted("model_name", model_name, f"one of {', '.join(MODEL_NAMES)}"))
    return CATALOGUE[model_name]

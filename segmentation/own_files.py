"""Files of one's own, model_weight_file and config_file: refused before anything is loaded, and named where a model fails.

Importing this module is cheap: torch and sam2 come in when there is a file to check.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import url2pathname

from .checkpoints import CheckpointError
from .messages import in_short, shown


def own_path(text: str) -> str:
    """The path that a user means: without the quotes in which Windows copies it, out of a file:// URL, ~ as the home folder."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    # The host, if any, is this one. Others would need the network, and their URLs stay as they are, which is no file.
    if match := re.match(r"file:(?://(?:localhost)?(?=/)|(?=/(?!/)))", text, re.IGNORECASE):
        return url2pathname(text[match.end() :])
    try:
        return str(Path(text).expanduser())
    except RuntimeError:  # "~somebody", who is not a user here
        return text


def check_files(model_weight_file: str, config_file: str) -> None:
    """Refuse names of files that cannot be read, before anything is loaded; empty names are no files.

    Raises:
        ValueError: a config_file that is neither a file nor a config inside the sam2 package.
        CheckpointError: a model_weight_file that is no file.
    """
    if model_weight_file:
        from .weights import check_weights_file

        check_weights_file(Path(own_path(model_weight_file)))
    if config_file:
        from .config import config_path

        config_path(own_path(config_file))


@contextmanager
def blamed_on_config(config_file: str) -> Iterator[None]:
    """Run a model in the body of this context: where it was built from a config of one's own and fails, the config is named.

    A config can fit the weights and yet describe a model that cannot work, such as one with an image_size of 100.

    Raises:
        ValueError: in place of what sam2 and torch raise inside such a model.
    """
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        if not config_file or isinstance(error, CheckpointError) or "memory" in str(error):
            raise
        raise ValueError(
            f"config_file: the model that {shown(config_file)} describes fails ({in_short(error)}). Accepted: the YAML with "
            "which the weights were trained."
        ) from error

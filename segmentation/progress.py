"""How work that takes long tells of itself."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int | None], None]
"""Called with what is done and what there is in all (None where nobody knows): batches of a search, bytes of a download.
What it raises ends the work."""

"""Options tuned for pairs of domains, by method; `rltool train` uses them unless told otherwise."""

from typing import Any

PRESETS: dict[str, dict[str, dict[str, Any]]] = {}

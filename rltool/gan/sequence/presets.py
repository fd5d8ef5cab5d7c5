"""Options tuned for sequence data; `rltool train` uses them unless told otherwise, class constructors never do."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {}

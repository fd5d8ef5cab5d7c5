"""Options tuned per environment; `rltool train` uses them unless told otherwise, class constructors never do.

Results with them, over seeds, are in `docs/benchmarks.md`.
"""

from typing import Any

PRESETS: dict[str, dict[str, dict[str, Any]]] = {"reinforce": {}, "a2c": {}, "ppo": {}}

"""The commands and programs of every page run as they stand there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.M | re.S)
LONG_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)  # Full budgets.


def run(command, cwd, **kwargs):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
        "MINARI_DATASETS_PATH": str(cwd / "datasets"),
    }
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, **kwargs)
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page, tmp_path):
    """Bash blocks line by line, Python blocks as programs, in one folder, from top to bottom."""
    for k, (language, text) in enumerate(BLOCK.findall(page.read_text())):
        if language == "python":
            named = re.match(r"# file: (\S+)", text)
            file = tmp_path / (named[1] if named else f"block{k}.py")
            file.write_text(text)
            run([sys.executable, file.name], tmp_path)
        else:
            run_commands(text, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if LONG_BLOCK.search(page.read_text())], ids=lambda p: p.stem)
def test_long_commands_run(page, tmp_path):
    """Blocks that take minutes, each in a folder of its own."""
    for k, text in enumerate(LONG_BLOCK.findall(page.read_text())):
        (tmp_path / str(k)).mkdir()
        run_commands(text, tmp_path / str(k))


def run_commands(text, folder):
    for line in text.splitlines():
        command = line.split("  #")[0].strip()
        if command.startswith("rltool "):
            if "--help" not in command and not shutil.which("rltool"):
                pytest.fail("rltool is not on PATH: install the package first")
            run(command, folder, shell=True)

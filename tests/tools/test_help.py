"""Tools that the pages name start as they are typed: from any directory, with nothing but the package installed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TOOLS = sorted(
    {name for page in PAGES for name in re.findall(r"(?<!tests/)\btools/((?:\w+/)?\w+\.py)", page.read_text())}
)
# One process for all, since imports take seconds; each begins with the path that the interpreter gives to a script.
SCRIPT = """
import json, runpy, sys
plain, status = sys.path[1:], {}
for script in sys.argv[1:]:
    sys.path[:] = [script.rpartition("/")[0], *plain]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tools"]:
        del sys.modules[name]
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
        status[script] = 0
    except SystemExit as ended:
        status[script] = ended.code or 0
    except BaseException as error:
        status[script] = repr(error)
print("\\n" + json.dumps(status))
"""


def test_pages_name_tools() -> None:
    assert {"label.py", "measure_divider.py", "bench/scoring.py"} <= {*TOOLS}


def test_help_needs_no_path(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    scripts = [str(ROOT / "tools" / name) for name in TOOLS]
    command = [sys.executable, "-c", SCRIPT, *scripts]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == dict.fromkeys(scripts, 0)
    assert [*tmp_path.iterdir()] == []

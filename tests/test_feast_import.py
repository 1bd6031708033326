"""Feast is imported quickly: typeguard does not rewrite its methods, and still does so for others."""

import json
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import json
import feature_repo
import feast
from typeguard import TypeCheckError, typechecked


@typechecked
def double(number: int) -> int:
    return 2 * number

try:
    double("2")
    checked = False
except TypeCheckError:
    checked = True
code = feast.Entity.__init__.__code__
print(json.dumps({"feast": "check_argument_types" in code.co_names, "others": checked}))
"""


def test_feast_is_imported_without_its_type_checks_and_others_keep_theirs(tmp_path: Path) -> None:
    program = tmp_path / "program.py"  # typeguard reads the source of what it checks
    program.write_text(_PROGRAM)
    ran = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == {"feast": False, "others": True}

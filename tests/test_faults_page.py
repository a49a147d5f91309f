"""docs/faults.md has a row for every fault and threat, and every test that it names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "faults.md").read_text()
NAMED = re.findall(r"(tests/\w+\.py)::(\w+)", PAGE)


def test_every_test_that_the_page_names_exists():
    assert len(NAMED) > 60
    missing = [f"{file}::{name}" for file, name in NAMED if f"def {name}(" not in (ROOT / file).read_text()]
    assert missing == []


def test_the_rows_are_numbered_and_each_names_a_proof_or_says_that_there_is_none():
    rows = [line.split(" | ") for line in PAGE.splitlines() if re.match(r"\| \d", line)]
    numbers = [int(row[0].strip("| ")) for row in rows]
    faults = numbers.index(1, 1)
    assert numbers == [*range(1, faults + 1), *range(1, len(numbers) - faults + 1)]
    assert faults >= 36
    for row in rows:
        assert len(row) == 5, row
        assert "::" in row[3] or row[3] == "not proven", row

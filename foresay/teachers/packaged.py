"""The teachers that come with the package, each by a word.

In: the name of a teacher. Out: its folder, where there is one.
Careful: a folder of the same name does not hide a packaged one: the words are in manifests and records.
"""

from pathlib import Path

_HOME = Path(__file__).parents[1] / "packaged"

NANO_TEACHER, SMOLLM2_TEACHER = "nano-teacher", "smollm2-teacher"
FOLDERS = {NANO_TEACHER: _HOME / "nano_teacher", SMOLLM2_TEACHER: _HOME / "smollm2_teacher"}


def folder_of(name: str) -> Path:
    """Where a teacher's files would be; a hub id is a path at which there is nothing."""
    return FOLDERS.get(name, Path(name))

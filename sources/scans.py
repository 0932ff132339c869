"""One more scan: a folder of slices, or a volume that is sliced as the set of a run was."""

import pathlib
import tempfile

from sources import conversion
from sources.facts import DataFacts
from sources.folder import Split, open_folder

ENDINGS = (".nii", ".nii.gz", ".mgz", ".hdr", ".img")  # of volumes


def open_scan(source: str, facts: DataFacts) -> Split:
    """Read slices like those of a set.

    Args:
        source: Folder of slices, or file of a volume. A volume becomes the case 0.
        facts: What is known of the set.

    Raises:
        InputError: It cannot be read.
    """
    if not source.lower().endswith(ENDINGS):
        return open_folder(source, facts)
    with tempfile.TemporaryDirectory() as folder:
        conversion.write_slices(pathlib.Path(source), pathlib.Path(folder))
        return open_folder(folder, facts)

"""An sdist packed again as its commit dates it: `python -m deploy.repack FILE.tar.gz`. Of one commit it is the same file anywhere.

setuptools packs the dates, the owner and the order that files happen to have; SOURCE_DATE_EPOCH does not reach them.
"""

import gzip
import os
import sys
import tarfile
from pathlib import Path


def repack(file: Path, moment: int) -> None:
    new = file.with_suffix(".new")
    with (
        tarfile.open(file) as archive,
        new.open("wb") as output,
        gzip.GzipFile("", "wb", fileobj=output, mtime=moment) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as copy,
    ):
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            content = archive.extractfile(member) if member.isfile() else None
            copy.addfile(_dated(member, moment), content)
    new.replace(file)


def _dated(member: tarfile.TarInfo, moment: int) -> tarfile.TarInfo:
    """As anybody's: the executable bit alone is kept of its permissions."""
    mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member.replace(mtime=moment, mode=mode, uid=0, gid=0, uname="", gname="", deep=False)


if __name__ == "__main__":
    repack(Path(sys.argv[1]), int(os.environ["SOURCE_DATE_EPOCH"]))

"""Makes the root file system of the image: the base with the fabric, without what only a build needs.

Runs in a stage of the Dockerfile and knows nothing but Python's standard library. The image gets the result
as one layer, so that what is removed here is gone and not only hidden, and so that two builds from the same
sources give the same layer. Three things would make them differ: times of files, which are set back to
SOURCE_DATE_EPOCH; byte code, which by default holds the times of its sources and orders sets by a random
hash; and what the engine puts into a container while it builds.

Byte code is shipped, since a read-only root file system cannot keep any: without it every start compiles the
whole program again. Its sources cannot change any more, so that is not asked at every start either.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

FABRIC = Path("/opt/shf")
USER = 10001
TIME = int(os.environ["SOURCE_DATE_EPOCH"])  # seconds
LEFT_OUT = {"dev", "proc", "sys", "run", "tmp", "src"}  # of the top level; besides the folder that is made
OF_THE_ENGINE = (".dockerenv", "etc/hostname", "etc/hosts", "etc/resolv.conf")  # mounted while it builds
INSTALLERS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "wheel", "ensurepip")
UNUSED = ("idlelib", "lib2to3", "turtledemo", "test", "tkinter")  # of the standard library; not compiled


def main(root: Path) -> None:
    """Make the tree in an empty or missing folder."""
    root.mkdir(exist_ok=True)
    for entry in sorted(Path("/").iterdir()):
        if entry.name not in LEFT_OUT and entry != root:
            subprocess.run(["cp", "--archive", str(entry), str(root)], check=True)
    for name in sorted(LEFT_OUT - {"src"}):
        (root / name).mkdir(mode=0o1777 if name == "tmp" else 0o755)
    (root / "tmp").chmod(0o1777)  # what mkdir gives depends on the umask
    for name in OF_THE_ENGINE:
        (root / name).unlink(missing_ok=True)
    remove_installers(root)
    add_user(root)
    compile_all(root)
    for entry in everything(root):
        settle(entry)
    settle(root)


def remove_installers(root: Path) -> None:
    """Remove pip and its like, wherever the base keeps them, and their commands."""
    library = Path(sysconfig.get_path("stdlib")).relative_to("/")
    places = {
        root / library,
        *(root / Path(path).relative_to("/") for path in sys.path if path.startswith("/")),
    }
    places |= {root / "usr/share/python-wheels", root / "usr/share/python3-wheels"}
    for place in sorted(places):
        for name in INSTALLERS if place.is_dir() else ():
            for found in (place / name, *place.glob(f"{name}-*"), *place.glob(f"{name}.*")):
                shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)
    for folder in ("usr/local/bin", "usr/bin"):
        for command in (*(root / folder).glob("pip*"), *(root / folder).glob("wheel*")):
            command.unlink()


def add_user(root: Path) -> None:
    """Give the user a name, since `shf mode` and `shf approve` note who it was, and a folder for its data."""
    with (root / "etc/passwd").open("a") as users:
        users.write(f"shf:x:{USER}:{USER}:Self-Healing Fabric:/data:/usr/sbin/nologin\n")
    with (root / "etc/group").open("a") as groups:
        groups.write(f"shf:x:{USER}:\n")
    (root / "data").mkdir(mode=0o750)
    os.chown(root / "data", USER, USER)


def compile_all(root: Path) -> None:
    """Byte code for the fabric and for the standard library, told by a hash that nobody checks again."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        raise SystemExit("set PYTHONHASHSEED=0: sets in byte code would be in another order at each build")
    unused = "|".join(UNUSED)
    library = Path(sysconfig.get_path("stdlib"))
    for folder in (FABRIC, library):
        compileall.compile_dir(
            root / folder.relative_to("/"),
            ddir=str(folder),
            maxlevels=50,
            quiet=1,
            force=True,  # also what somebody has compiled by importing it
            rx=re.compile(rf"/python3\.\d+/({unused})/"),
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


def everything(root: Path) -> Iterator[Path]:
    """All below, folders after what is in them."""
    for folder, folders, files in os.walk(root, topdown=False):
        for name in (*files, *folders):
            yield Path(folder, name)


def settle(entry: Path) -> None:
    """No later than TIME, and nobody becomes root by running it."""
    status = entry.lstat()
    if not stat.S_ISLNK(status.st_mode) and status.st_mode & (stat.S_ISUID | stat.S_ISGID):
        entry.chmod(stat.S_IMODE(status.st_mode) & ~(stat.S_ISUID | stat.S_ISGID))
    if status.st_mtime > TIME:
        os.utime(entry, (TIME, TIME), follow_symlinks=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

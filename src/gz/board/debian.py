# SPDX-License-Identifier: Apache-2.0
"""Debian arm64 packages, fetched by apt into a private directory.

apt runs with a configuration of its own: its lists, cache and (empty) dpkg status lie below the state
directory, its sources are the machine's own Debian sources asked for arm64. The machine's dpkg architectures
are not touched. apt checks the signed lists against Debian's archive keyring and every file against the
lists; the versions and SHA-256 of what was fetched are kept in a lock file, so that later starts need no
network and notice a damaged cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from gz.board.errors import BoardError
from gz.state import state_directory

ARCHITECTURE = "arm64"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TARGET = f"deb [arch={ARCHITECTURE} signed-by={KEYRING}] $(REPO_URI) $(RELEASE) $(COMPONENT)"

CONFIGURATION = """
Dir "{root}";
Dir::State "{root}";
Dir::State::status "{root}/status";
Dir::Cache "{root}";
Dir::Cache::archives "archives";
Dir::Etc "{root}";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Dir::Bin::methods "{methods}";
APT::Architecture "{architecture}";
#clear APT::Architectures;
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
"""

# What of the machine's own configuration says how packages are reached.
INHERITED = (
    "Acquire::http",
    "Acquire::https",
    "Acquire::ftp",
    "Acquire::Check-",
    "Acquire::ForceIPv",
    "Acquire::proxy",
)


@dataclass(frozen=True)
class Package:
    """One fetched package; `sha256` is of the file `file` in the archives directory."""

    name: str
    version: str
    file: str
    sha256: str


class Debian:
    """The cache of packages below `root` (default: in the state directory)."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or state_directory() / "debian"
        self.archives = self.root / "archives"
        self.lock_file = self.root / "lock.json"

    def closure(self, *names: str) -> list[Package]:
        """The packages `names` and everything they depend on."""
        return self._locked_set(" ".join(names), lambda: self._download_closure(names))

    def kernel(self, flavour: str) -> Package:
        """The kernel package behind linux-image-`flavour`, without what it would install beside it."""
        return self._locked_set(f"linux-image-{flavour}", lambda: self._download_kernel(flavour))[0]

    def fetched(self) -> int:
        """How many packages are in the cache."""
        return len({package for packages in self._read_lock().values() for package in packages})

    def path(self, package: Package) -> Path:
        """The package's file, checked against its hash."""
        path = self.archives / package.file
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BoardError(f"cannot read {path}: {error.strerror}; remove {self.root} to fetch it again") from None
        if digest != package.sha256:
            raise BoardError(f"{path} is damaged (its SHA-256 changed); remove {self.root} to fetch it again")
        return path

    def _locked_set(self, key: str, download: Callable[[], list[Path]]) -> list[Package]:
        sets = self._read_lock()
        if key not in sets or not all((self.archives / p.file).exists() for p in sets[key]):
            with self._exclusive():
                self._prepare()
                files = download()
                sets = self._read_lock()
                sets[key] = sorted((self._describe(f) for f in files), key=lambda package: package.name)
                text = json.dumps({k: [asdict(p) for p in v] for k, v in sets.items()}, indent=1)
                temporary = self.lock_file.with_suffix(".new")
                temporary.write_text(text)
                temporary.replace(self.lock_file)
        return sets[key]

    def _read_lock(self) -> dict[str, list[Package]]:
        try:
            return {k: [Package(**p) for p in v] for k, v in json.loads(self.lock_file.read_text()).items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError):
            raise BoardError(f"{self.lock_file} is damaged; remove {self.root} to fetch it again") from None

    @contextmanager
    def _exclusive(self) -> Generator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "fetch.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _prepare(self) -> None:
        """Write apt's configuration and bring its lists up to date."""
        if not KEYRING.exists():
            raise BoardError(f"{KEYRING} is missing; install debian-archive-keyring")
        for directory in (self.root / "lists" / "partial", self.archives / "partial"):
            directory.mkdir(parents=True, exist_ok=True)
        (self.root / "status").touch()
        (self.root / "sources.list").write_text(debian_sources())
        machine = run_apt("apt-config", "dump").splitlines()
        methods = next((m.split('"')[1] for m in machine if m.startswith("Dir::Bin::methods ")), "/usr/lib/apt/methods")
        text = CONFIGURATION.format(root=self.root, methods=methods, architecture=ARCHITECTURE)
        text += "".join(line + "\n" for line in machine if line.startswith(INHERITED))
        configuration = self.root / "apt.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(text)
        self._apt("apt-get", "-qq", "update")

    def _apt(self, *command: str, cwd: Path | None = None) -> str:
        return run_apt(*command, environment={"APT_CONFIG": str(self.root / "apt.conf")}, cwd=cwd)

    def _download_closure(self, names: tuple[str, ...]) -> list[Path]:
        plan = self._apt("apt-get", "install", "-qq", "--simulate", *names)
        # "Inst libc6 (2.36-9 Debian:12/stable [arm64])"
        wanted = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
        return self._download(wanted)

    def _download_kernel(self, flavour: str) -> list[Path]:
        depends = self._apt("apt-cache", "depends", "--important", f"linux-image-{flavour}")
        for line in depends.splitlines():
            relation, _, name = line.strip().partition(": ")
            if relation == "Depends" and name.startswith("linux-image-"):
                return self._download([name])
        raise BoardError(f"linux-image-{flavour} names no kernel package")

    def _download(self, names: list[str]) -> list[Path]:
        """Fetch `names` with apt, which checks each file against the signed lists."""
        files: list[Path] = []
        for line in self._apt("apt-get", "download", "-qq", "--print-uris", *names).splitlines():
            files.append(self.archives / line.split()[1])
        self._apt("apt-get", "download", "-qq", *names, cwd=self.archives)
        return files

    def _describe(self, path: Path) -> Package:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name, version, _ = path.name.split("_")
        return Package(name, version.replace("%3a", ":"), path.name, digest)


def debian_sources() -> str:
    """The machine's own Debian sources, asked for arm64, in one-line style."""
    targets = run_apt("apt-get", "indextargets", "--format", TARGET, "Created-By: Packages", "Origin: Debian")
    if not targets.strip():
        # No lists yet, so apt cannot tell the origin: take what has the machine's release name.
        codename = os_release().get("VERSION_CODENAME", "")
        every = run_apt("apt-get", "indextargets", "--format", TARGET, "Created-By: Packages").splitlines()
        targets = "\n".join(line for line in every if codename and line.split()[-2].startswith(codename))
    lines = [line for line in dict.fromkeys(targets.splitlines()) if line.split()[-1] != "$(COMPONENT)"]
    if not lines:
        raise BoardError("apt knows no Debian source on this machine; see /etc/apt/sources.list.d")
    return "".join(f"{line}\n" for line in lines)


def os_release() -> dict[str, str]:
    """The fields of /etc/os-release; empty if there is none."""
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key: value.strip('"') for key, _, value in pairs}


def run_apt(*command: str, environment: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """The standard output of one of apt's programs; its own last error line if it fails."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise BoardError(f"{command[0]} is missing: the board is made of Debian packages and needs apt") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["no reason given"]
        raise BoardError(f"{' '.join(command[:2])} failed: {lines[-1].removeprefix('E: ')}")
    return done.stdout

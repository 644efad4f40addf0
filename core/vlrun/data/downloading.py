"""Getting one file: resumed after a break, from one mirror after the other, checked before it takes its name."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from vlrun.errors import DataError
from vlrun.files import open_itself, read_object_or_empty, room_for, sha256_of, write_json
from vlrun.interfaces.reporter import ProgressCallback
from vlrun.plugins.downloads import RemoteFile

_BLOCK = 1 << 18
_TIMEOUT = 60.0
_ATTEMPTS = 4
"""How often a mirror that sends nothing new is asked."""


class _MirrorError(Exception):
    """A mirror cannot be used, for a reason worth printing."""


class _Interrupted(Exception):
    """A mirror stopped sending; asking again may go on."""


@dataclass(frozen=True)
class Fetched:
    """A file that is there, checked.

    Attributes:
        mirror: where it came from; empty where it was there already.
        accepted: whether its hash is another than the published one and the user wants it anyway.
    """

    path: Path
    sha256: str
    mirror: str
    accepted: bool = False


@dataclass
class Fetcher:
    """Gets files into a folder.

    Attributes:
        extra_mirrors: folders, ``file://`` or ``http(s)://`` addresses of folders, asked before the published ones.
        is_offline: whether the published addresses are left alone.
        accept: a hash that is taken although another is published.
        say: gets what a user should read at once.
        pause: waits some seconds between attempts.
    """

    folder: Path
    extra_mirrors: Sequence[str] = ()
    accept: str = ""
    say: Callable[[str], None] = field(default_factory=lambda: _ignore)
    progress: ProgressCallback = field(default_factory=lambda: _ignore)
    pause: Callable[[float], None] = time.sleep
    is_offline: bool = False

    def fetch(self, file: RemoteFile) -> Fetched:
        """The file in the folder, from the first mirror that has it whole and right.

        Raises:
            DataError: no mirror has it; says what was wrong with each. What came of it is kept, and the same call
                continues it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / file.name
        if target.is_file() and (known := self._known(file, target)):
            return known
        mirrors = [f"{mirror.rstrip('/')}/{file.name}" for mirror in self.extra_mirrors]
        mirrors += () if self.is_offline else file.urls
        failures = []
        for mirror in mirrors:
            try:
                return self._from(mirror, file, target)
            except _MirrorError as error:
                failures.append(f"  {mirror}: {error}")
                self.say(f"{file.name}: {mirror}: {error}")
        came = self._part(file).stat().st_size if self._part(file).exists() else 0
        kept = [f"  {came:,} bytes of it are kept; the same command goes on from there"] if came else []
        raise DataError([f"{file.name}: no mirror has it:", *(failures or ["  no address is known"]), *kept])

    def is_unpacked(self, file: RemoteFile) -> bool:
        """Whether ``note_unpacked`` was told so of the very file that is there."""
        return bool(self._records().get(file.name, {}).get("unpacked"))

    def note_unpacked(self, file: RemoteFile) -> None:
        """Remembers it for the next time."""
        records = self._records()
        write_json(self.folder / RECORD, {**records, file.name: {**records[file.name], "unpacked": True}})

    def _known(self, file: RemoteFile, target: Path) -> Fetched | None:
        """What is there, hashed only if it changed since it was last checked."""
        record = self._records().get(file.name, {})
        status = target.stat()
        if (record.get("size"), record.get("mtime_ns")) != (status.st_size, status.st_mtime_ns):
            record = {"sha256": sha256_of(target)}
        digest = record["sha256"]
        if file.sha256 is not None and record.get("accepted_instead_of") == file.sha256:
            return Fetched(target, digest, "", accepted=True)
        try:
            accepted = self._check_content(file, target, digest)
        except _MirrorError as error:
            self.say(f"{target} is there, but {error}; getting it again")
            return None
        if "size" not in record:
            self._record(file, target, digest, "was there", accepted)
        return Fetched(target, digest, "", accepted)

    def _from(self, mirror: str, file: RemoteFile, target: Path) -> Fetched:
        part = self._part(file)
        scheme = urlsplit(mirror).scheme
        if scheme in ("http", "https"):
            self._download(mirror, file, part)
        elif scheme in ("", "file"):
            self._copy(Path(unquote(urlsplit(mirror).path)) if scheme else Path(mirror).expanduser(), file, part)
        else:
            raise _MirrorError(f"'{scheme}' addresses are not supported (http, https, file, or a folder)")
        digest = sha256_of(part)
        try:
            accepted = self._check_content(file, part, digest)
        except _MirrorError:
            self._discard(file)
            raise
        part.replace(target)
        self._discard(file)
        self._record(file, target, digest, mirror, accepted)
        return Fetched(target, digest, mirror, accepted)

    def _check_content(self, file: RemoteFile, path: Path, digest: str) -> bool:
        """Whether a wrong hash was accepted; raises _MirrorError where it is not the file."""
        if self.accept and digest == self.accept:
            return file.sha256 not in (None, digest)
        size = path.stat().st_size
        if file.sha256 not in (None, digest) or file.size not in (None, size):
            expected = f"{file.size:,} bytes, " if file.size is not None else ""
            raise _MirrorError(
                f"a wrong file: {size:,} bytes, sha256 {digest}, expected {expected}"
                f"{f'sha256 {file.sha256}' if file.sha256 else 'hash not published'}; to take this very file: "
                f"--accept-sha256 {digest}"
            )
        if not size:
            raise _MirrorError("an empty file")
        with path.open("rb") as opened:
            head = opened.read(64).lstrip().lower()
        if head.startswith((b"<!doctype html", b"<html")) and not file.name.endswith((".html", ".htm")):
            raise _MirrorError("a web page instead of the file (a sign-in, or it has moved)")
        if file.name.endswith(".zip") and not head.startswith(b"pk"):
            raise _MirrorError("not a zip file")
        return False

    def _copy(self, source: Path, file: RemoteFile, part: Path) -> None:
        if not source.is_file():
            raise _MirrorError("there is no such file")
        total = source.stat().st_size
        self._check_room(total)
        try:
            with source.open("rb") as given, open_itself(part, "wb") as out:
                while block := given.read(_BLOCK):
                    out.write(block)
                    self._show(file, out.tell(), total)
        except OSError as error:
            raise _MirrorError(error.strerror or str(error)) from error

    def _download(self, url: str, file: RemoteFile, part: Path) -> None:
        """Asks again where the connection breaks off, as long as something new comes."""
        failures = 0
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                self._request(url, file, part)
                return
            except _Interrupted as error:
                came = part.stat().st_size if part.exists() else 0
                failures = 0 if came > before else failures + 1
                if failures >= _ATTEMPTS:
                    raise _MirrorError(f"{error} ({came:,} bytes came)") from error
                self.say(f"{file.name}: {error} after {came:,} bytes; asking again")
                self.pause(min(2.0**failures, 30.0) / 2)

    def _request(self, url: str, file: RemoteFile, part: Path) -> None:
        have, state = self._resumable(url, file, part)
        headers = {"User-Agent": "vlrun"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if state.get("validator"):
                headers["If-Range"] = state["validator"]
        try:
            with urlopen(Request(url, headers=headers), timeout=_TIMEOUT) as answer:  # noqa: S310 - http(s), see _from
                self._receive(answer, url, file, part, have)
        except HTTPError as error:
            if error.code == 416:  # there is nothing after what came: it is whole, or it is another file
                self._finish_or_restart(error, file, part, have)
                return
            if error.code in (408, 429) or error.code >= 500:
                raise _Interrupted(f"the server answers {error.code} {error.reason}") from error
            raise _MirrorError(f"the server answers {error.code} {error.reason}") from error
        except (OSError, HTTPException) as error:
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise DataError(f"{self.folder}: no space is left; what came of {file.name} is kept") from error
            reason = getattr(error, "reason", error)
            raise _Interrupted(f"the connection broke off ({reason or type(error).__name__})") from error

    def _resumable(self, url: str, file: RemoteFile, part: Path) -> tuple[int, dict[str, Any]]:
        """Bytes that can be kept: those of another mirror only where the hash will tell whether they fit."""
        if part.is_symlink():  # ours is a file, and what it points at is somebody else's
            part.unlink()
        state = read_object_or_empty(self._state(file))
        have = part.stat().st_size if part.exists() else 0
        if have and state.get("url") != url and file.sha256 is None:
            part.unlink()
            return 0, {}
        return have, state if state.get("url") == url else {}

    def _receive(self, answer: Any, url: str, file: RemoteFile, part: Path, have: int) -> None:
        start = have if answer.status == 206 and _range_start(answer) == have else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdecimal() else None
        if file.size is not None and total is not None and total != file.size and not self.accept:
            raise _MirrorError(f"a wrong file: the server announces {total:,} bytes, expected {file.size:,}")
        self._check_room((total or file.size or 0) - start)
        validator = answer.headers.get("ETag", "")
        validator = "" if validator.startswith("W/") else validator or answer.headers.get("Last-Modified", "")
        write_json(self._state(file), {"url": url, "validator": validator})
        limit = total or file.size
        with room_for(part, limit), open_itself(part, "r+b" if start else "wb") as out:
            out.seek(start)
            while block := answer.read(_BLOCK):
                out.write(block)
                self._show(file, out.tell(), limit or 0)
                if file.size is not None and out.tell() > file.size and not self.accept:
                    raise _MirrorError(f"a wrong file: more than the expected {file.size:,} bytes come")
            came = out.tell()
        if total is not None and came < total:
            raise _Interrupted(f"the connection broke off ({came:,} of {total:,} bytes)")

    def _finish_or_restart(self, error: HTTPError, file: RemoteFile, part: Path, have: int) -> None:
        total = str(error.headers.get("Content-Range", "")).rpartition("/")[2]
        if total.isdecimal() and int(total) == have:
            return
        part.unlink(missing_ok=True)
        raise _Interrupted("the server has another file than before")

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DataError(f"{self.folder}: {needed:,} bytes are needed, {free:,} are free")

    def _show(self, file: RemoteFile, done: int, total: int) -> None:
        self.progress(f"getting {file.name} (kB)", done // 1000, max(total, done) // 1000)

    def _part(self, file: RemoteFile) -> Path:
        return self.folder / f".{file.name}.part"

    def _state(self, file: RemoteFile) -> Path:
        return self.folder / f".{file.name}.part.json"

    def _discard(self, file: RemoteFile) -> None:
        self._part(file).unlink(missing_ok=True)
        self._state(file).unlink(missing_ok=True)

    def _records(self) -> dict[str, Any]:
        return read_object_or_empty(self.folder / RECORD)

    def _record(self, file: RemoteFile, target: Path, digest: str, mirror: str, accepted: bool) -> None:
        status = target.stat()
        facts = {"sha256": digest, "size": status.st_size, "mtime_ns": status.st_mtime_ns, "from": mirror}
        if accepted:
            facts["accepted_instead_of"] = file.sha256
        write_json(self.folder / RECORD, {**self._records(), file.name: facts})


def _ignore(*_: object) -> None: ...


RECORD = "files.json"
"""Beside the files: where each came from, its hash, and that it was checked."""


def _range_start(answer: Any) -> int:
    """First byte that an answer holds, from ``Content-Range: bytes 100-199/200``; -1 where it does not say."""
    first = str(answer.headers.get("Content-Range", "")).removeprefix("bytes").strip().partition("-")[0]
    return int(first) if first.isdecimal() else -1

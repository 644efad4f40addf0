"""The published files of GQA (nothing heavy is imported)."""

from __future__ import annotations

from vlrun import Download, RemoteFile
from vlrun_gqa.sources import DOWNLOAD_PAGE, LXMERT_FILES, LXMERT_PAGE, LXMERT_VOCABULARY, OFFICIAL_FILES

_OFFICIAL_SERVERS = ("https://downloads.cs.stanford.edu/nlp/data/gqa", "https://nlp.stanford.edu/data/gqa")
_LXMERT_SERVERS = ("https://nlp.cs.unc.edu/data/lxmert_data/gqa", "https://nlp1.cs.unc.edu/data/lxmert_data/gqa")

DOWNLOADS = (
    Download(
        name="gqa-official",
        summary="questions of GQA 1.2, with programs and groups",
        kind="annotations",
        makes="gqa",
        source="official",
        recognised=tuple(f"{stem}.json" for stem in OFFICIAL_FILES.values()),
        optional=tuple(f"{stem}.json" for stem in OFFICIAL_FILES.values() if "_all_" in stem),
        files=(
            RemoteFile(
                name="questions1.2.zip", urls=tuple(f"{server}/questions1.2.zip" for server in _OFFICIAL_SERVERS)
            ),
        ),
        page=DOWNLOAD_PAGE,
    ),
    Download(
        name="gqa-lxmert",
        summary="balanced questions of GQA as LXMERT redistributes them",
        kind="annotations",
        makes="gqa",
        source="lxmert",
        recognised=tuple(f"gqa/{stem}.json" for stem in LXMERT_FILES.values()),
        files=(
            *(
                RemoteFile(name=f"{stem}.json", urls=tuple(f"{server}/{stem}.json" for server in _LXMERT_SERVERS))
                for stem in LXMERT_FILES.values()
            ),
            RemoteFile(
                name=f"{LXMERT_VOCABULARY}.json",
                urls=(f"https://raw.githubusercontent.com/airsplay/lxmert/master/data/gqa/{LXMERT_VOCABULARY}.json",),
            ),
        ),
        page=LXMERT_PAGE,
    ),
)

"""Fetch the documentation packages and turn them into clean, split text documents."""

from __future__ import annotations

import gzip
import hashlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from extract import html_to_text, man_to_text

DOC = "usr/share/doc"
JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
MIN_JAPANESE_SHARE = 0.10
PIECE_CHARS = 8000
MIN_PIECE_CHARS = 100
SHORT_PARAGRAPH = 16
VALIDATION_SHARE = 0.02
FAQ_NOTICE = "the Debian FAQ notice (copies and changes under the same terms)"


@dataclass(frozen=True)
class Package:
    """One Debian package, the licence of its text and where the text lies in it."""

    name: str
    version: str
    licence: str
    globs: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """A piece of one source file, at most about `PIECE_CHARS` long."""

    package: str
    source: str
    language: str
    split: str
    text: str


PACKAGES = (
    Package("aptitude-doc-ja", "0.8.13-5", "GPL-2+", (f"{DOC}/aptitude/html/ja/*.html",)),
    Package("debian-edu-doc-ja", "2.12.23~deb12u1", "GPL-2+", (f"{DOC}/debian-edu-doc-ja/*.html",)),
    Package(
        "debian-edu-doc-legacy-ja",
        "2.12.23~deb12u1",
        "GPL-2+",
        (f"{DOC}/debian-edu-doc-legacy-ja/*.html",),
    ),
    Package("debian-faq", "11.1", FAQ_NOTICE, (f"{DOC}/debian/FAQ/*.html",)),
    Package("debian-faq-ja", "11.1", FAQ_NOTICE, (f"{DOC}/debian/FAQ/ja/*.html",)),
    Package(
        "debian-handbook",
        "11.20220922",
        "GPL-2+ or CC-BY-SA-3.0",
        (f"{DOC}/debian-handbook/html/ja-JP/*.html", f"{DOC}/debian-handbook/html/en-US/*.html"),
    ),
    Package("debian-policy", "4.6.2.0", "GPL-2+", (f"{DOC}/debian-policy/policy.html/*.html",)),
    Package(
        "debian-policy-ja", "4.6.2.0", "GPL-2+", (f"{DOC}/debian-policy/ja/policy.html/*.html",)
    ),
    Package("debian-reference-en", "2.100", "GPL-2+", ("usr/share/debian-reference/*.html",)),
    Package("debian-reference-ja", "2.100", "GPL-2+", ("usr/share/debian-reference/*.html",)),
    Package(
        "debmake-doc",
        "1.17-7",
        "Expat",
        (f"{DOC}/debmake-doc/html/*.ja.html", f"{DOC}/debmake-doc/html/*.en.html"),
    ),
    Package("developers-reference", "12.18", "GPL-2+", ("usr/share/developers-reference/*.html",)),
    Package(
        "developers-reference-ja", "12.18", "GPL-2+", ("usr/share/developers-reference/ja/*.html",)
    ),
    Package(
        "harden-doc",
        "3.19+nmu1",
        "GPL-2+",
        (f"{DOC}/harden-doc/html/ja-JP/*.html", f"{DOC}/harden-doc/html/en-US/*.html"),
    ),
    Package(
        "installation-guide-amd64",
        "20230508+deb12u1",
        "GPL-2",
        (f"{DOC}/installation-guide-amd64/ja/*.html", f"{DOC}/installation-guide-amd64/en/*.html"),
    ),
    Package(
        "libreoffice-help-en-us",
        "4:7.4.7-1+deb12u14",
        "MPL-2.0",
        ("usr/share/libreoffice/help/en-US/text/**/*.html",),
    ),
    Package(
        "libreoffice-help-ja",
        "4:7.4.7-1+deb12u14",
        "MPL-2.0",
        ("usr/share/libreoffice/help/ja/text/**/*.html",),
    ),
    Package("maint-guide", "1.2.53", "GPL-2+", (f"{DOC}/maint-guide/html/*.html",)),
    Package("maint-guide-ja", "1.2.53", "GPL-2+", (f"{DOC}/maint-guide-ja/html/*.html",)),
    Package(
        "manpages-ja",
        "0.5.0.0.20221215+dfsg-1",
        "that of each page (DFSG-free)",
        ("usr/share/man/ja/man*/*.gz",),
    ),
    Package(
        "manpages-ja-dev",
        "0.5.0.0.20221215+dfsg-1",
        "that of each page (DFSG-free)",
        ("usr/share/man/ja/man*/*.gz",),
    ),
)


def fetch(package: Package, cache: Path) -> tuple[Path, dict[str, str]]:
    """Download and unpack one package; returns its tree and what was really used."""
    debs = sorted(cache.glob(f"{package.name}_*.deb"))
    if not debs:
        wanted = (f"{package.name}={package.version}", package.name)
        for spec in wanted:  # the pinned version, else the one the distribution has now
            done = subprocess.run(["apt-get", "download", spec], cwd=cache, check=False)
            if done.returncode == 0:
                break
        debs = sorted(cache.glob(f"{package.name}_*.deb"))
    if not debs:
        raise RuntimeError(f"{package.name}: apt-get download failed (is apt-get update recent?)")
    version = debs[0].name.split("_")[1].replace("%3a", ":")
    if version != package.version:
        print(f"warning: {package.name} is {version}, the pinned version is {package.version}")
    tree = cache / "unpacked" / package.name
    if not tree.exists():
        tree.mkdir(parents=True)
        subprocess.run(["dpkg", "-x", str(debs[0]), str(tree)], check=True)
    digest = hashlib.sha256(debs[0].read_bytes()).hexdigest()
    return tree, {"name": package.name, "version": version, "sha256": digest}


def _read(path: Path) -> str:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = raw.decode("utf-8", errors="replace")
    return html_to_text(text) if path.suffix == ".html" else man_to_text(text)


def _fresh_paragraphs(text: str, seen: set[str]) -> Iterator[str]:
    """Yield the paragraphs not met before (numbers and spaces do not make a difference)."""
    for paragraph in re.split(r"\n{2,}", text):
        stripped = paragraph.strip("\n")
        if not stripped.startswith("  "):  # two or more spaces are the indent of code
            stripped = stripped.strip()
        if not stripped.strip() or "\ufffd" in stripped:
            continue
        key = re.sub(r"[\d\s.]+", "", stripped)
        if len(stripped) >= SHORT_PARAGRAPH:
            if key in seen:
                continue
            seen.add(key)
        yield stripped


def _pieces(paragraphs: Iterator[str]) -> Iterator[str]:
    piece: list[str] = []
    length = 0
    for paragraph in paragraphs:
        piece.append(paragraph)
        length += len(paragraph)
        if length > PIECE_CHARS:
            yield "\n\n".join(piece)
            piece, length = [], 0
    if length > MIN_PIECE_CHARS:  # what deduplication leaves of a file may be headings only
        yield "\n\n".join(piece)


def _language(text: str) -> str:
    return "ja" if len(JAPANESE.findall(text)) >= MIN_JAPANESE_SHARE * len(text) else "en"


def _split(key: str, seed: int) -> str:
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "validation" if share < VALIDATION_SHARE else "train"


def load(cache: Path, seed: int) -> tuple[list[Document], list[dict[str, str]]]:
    """All documents, in a fixed order, and the packages they came from."""
    cache.mkdir(parents=True, exist_ok=True)
    documents: list[Document] = []
    used: list[dict[str, str]] = []
    seen: set[str] = set()
    for package in PACKAGES:
        tree, facts = fetch(package, cache)
        used.append({**facts, "licence": package.licence})
        for pattern in package.globs:
            for path in sorted(p for p in tree.glob(pattern) if p.is_file()):
                source = str(path.relative_to(tree))
                for number, text in enumerate(_pieces(_fresh_paragraphs(_read(path), seen))):
                    split = _split(f"{package.name}/{source}#{number}", seed)
                    document = Document(package.name, source, _language(text), split, text)
                    documents.append(document)
    return documents, used

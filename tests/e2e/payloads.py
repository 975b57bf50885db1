"""What of an artifact must not depend on how often its making was interrupted."""

import hashlib
import json
from pathlib import Path
from typing import Any

Payload = dict[str, Any]


def read_payload(artifact: Path) -> Payload:
    """Reads an artifact's bytes (as hashes), digest, error ledger and metrics; checks all of it."""
    assert find_faults(artifact) == []
    manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    kept = ("identity", "content_digest", "layers", "metrics", "files")
    return {key: manifest[key] for key in kept}


def find_faults(artifact: Path) -> list[str]:
    """Compares a folder with its manifest, independently of llmopt."""
    if not (artifact / "manifest.json").exists():
        return [f"{artifact.name} has no manifest"]
    manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    listed = {entry["path"]: (entry["size"], entry["sha256"]) for entry in manifest["files"]}
    found = {
        path.relative_to(artifact).as_posix(): (
            path.stat().st_size,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in artifact.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    return [
        f"{artifact.name}: {name} is not as the manifest says"
        for name in sorted(listed.keys() | found.keys())
        if listed.get(name) != found.get(name)
    ]


def find_half_artifacts(store: Path) -> list[str]:
    """Lists the faults of everything that a store shows as finished."""
    return [fault for path in (store / "artifacts").glob("*") for fault in find_faults(path)]

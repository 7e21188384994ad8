"""Container images without a registry or an image builder: a tar that containerd imports.

The format is `docker save`'s: one layer, a config, a manifest. For real images (a Dockerfile) use
`podman build` and `podman save`; `RealNode.import_image` takes both.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_image(tar: Path, name: str, files: Mapping[str, Path], entrypoint: Sequence[str]) -> Path:
    """An image `name` of these files (path inside → file here), all executable."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as content:
        for inside, file in files.items():
            data = file.read_bytes()
            _add(content, inside.lstrip("/"), data, 0o755)
    packed = layer.getvalue()
    digest = f"sha256:{hashlib.sha256(packed).hexdigest()}"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint)},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(tar, "w") as image:
        _add(image, "layer.tar", packed)
        _add(image, "config.json", json.dumps(config).encode())
        _add(image, "manifest.json", json.dumps(manifest).encode())
    return tar


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))

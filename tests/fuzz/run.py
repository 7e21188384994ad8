"""Fuzz, and keep what is new: `python -m tests.fuzz.run [TARGET …] --cpu-s 600`.

For each target: unpack its corpus and the seeds, fuzz for so much CPU time, merge what covers
something new into the archive. A case that breaks something ends it, and is kept beside the cache.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.fuzz import corpus, seeds
from tests.fuzz.targets import TARGETS, Target

CACHE = Path(".cache/fuzz")
_DICTIONARY = Path(__file__).parent / "dictionary.txt"
_TIMEOUT_S = 30
"""For one case; they take a millisecond."""
_RSS_MB = 1500


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--cpu-s", type=float, default=600.0, help="for each target")
    parser.add_argument("--replay", type=Path, help="run this case of TARGET, without a fuzzer")
    given = parser.parse_args()
    if given.replay is not None:
        TARGETS[given.targets[0]].load()(given.replay.read_bytes())
        return
    broken = [name for name in given.targets or TARGETS if not fuzz(TARGETS[name], given.cpu_s)]
    if broken:
        sys.exit(f"broken: {', '.join(broken)}; see them with --replay {CACHE}/crashes/…")


def fuzz(target: Target, cpu_s: float) -> bool:
    """Fuzz one target and keep what is new; whether nothing broke."""
    known, found, crashes = (CACHE / part / target.name for part in ("known", "found", "crashes"))
    shutil.rmtree(known, ignore_errors=True)
    for folder in (known, found, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    kept = [case for _, case in corpus.cases(target.name)]
    for number, case in enumerate([*kept, *seeds.seeds(target.name)]):
        (known / f"{number:05}").write_bytes(case)
    done = _engine(target, cpu_s, f"-artifact_prefix={crashes}/", str(found), str(known))
    if done.returncode:
        _explain(done)
        return False
    minimal = CACHE / "minimal" / target.name
    shutil.rmtree(minimal, ignore_errors=True)
    minimal.mkdir(parents=True)
    merged = _engine(target, 0, "-merge=1", str(minimal), str(known), str(found))
    if merged.returncode:
        _explain(merged)
        return False
    count = corpus.pack(target.name, (p.read_bytes() for p in sorted(minimal.iterdir())))
    shutil.rmtree(found)
    covered = re.findall(r"cov: (\d+) ft: (\d+)", done.stderr)
    print(f"{target.name}: {done.stdout.strip()}, cov/ft {covered[-1]}, {count} cases kept")
    return True


def _explain(done: subprocess.CompletedProcess[str]) -> None:
    """What went wrong, without libFuzzer's progress."""
    noise = ("#", "INFO", "WARNING")
    lines = [line for line in done.stderr.splitlines() if not line.startswith(noise)]
    print("\n".join([*done.stdout.splitlines()[-30:], *lines[-10:]]))


def _engine(target: Target, cpu_s: float, *arguments: str) -> subprocess.CompletedProcess[str]:
    engine = [sys.executable, "-m", "tests.fuzz.engine", target.name]
    again = CACHE / f"{target.name}.sh"
    again.write_text(f'#!/bin/sh\nexec {shlex.join(engine)} 0 "$0" "$@"\n')
    again.chmod(0o755)
    bounds = [
        f"-max_len={target.max_bytes}",
        f"-dict={_DICTIONARY}",
        f"-timeout={_TIMEOUT_S}",
        f"-rss_limit_mb={_RSS_MB}",
    ]
    return subprocess.run(
        [*engine, str(cpu_s), str(again.absolute()), *bounds, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    main()

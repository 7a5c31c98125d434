#!/usr/bin/env bash
# Combine mrx with other tools; stdout carries data only: bash 04_pipeline.sh [FOLDER]
set -euo pipefail
media=$(cd "$(dirname "$0")" && pwd)/media
out=${1:-$(mktemp -d)}

# mrx extract prints the path of each finished shard; mrx ls reads the paths.
find "$media" -name '*.mp4' -print0 |
  mrx extract -0 - --root "$media" -o "$out/shards" --print path |
  mrx ls - --jsonl |
  python3 -c '
import json, sys
rows = [json.loads(line) for line in sys.stdin]
print(sum(row["n_out"] for row in rows), "maps of", len(rows), "videos")
'

# The exit code says that an input failed, and mrx ls lists it.
echo "not a video" > "$out/broken.mp4"
mrx extract "$out/broken.mp4" "$media/rotate.mp4" -o "$out/partly" ||
  mrx ls "$out/partly" --status failed
echo "written to $out"

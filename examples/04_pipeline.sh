#!/usr/bin/env bash
# mrx between other tools: stdout carries data, stderr words. bash 04_pipeline.sh [FOLDER]
set -euo pipefail
media=$(cd "$(dirname "$0")" && pwd)/media
out=${1:-$(mktemp -d)}

# Each shard's path is printed when the shard is whole; mrx ls reads the paths.
find "$media" -name '*.mp4' -print0 |
  mrx extract -0 - --root "$media" -o "$out/shards" --print path |
  mrx ls - --jsonl |
  python3 -c '
import json, sys
rows = [json.loads(line) for line in sys.stdin]
print(sum(row["n_out"] for row in rows), "maps of", len(rows), "videos")
'

# The exit code tells that an input failed, and mrx ls tells which.
echo "not a video" > "$out/broken.mp4"
mrx extract "$out/broken.mp4" "$media/rotate.mp4" -o "$out/partly" ||
  mrx ls "$out/partly" --status failed
echo "written to $out"

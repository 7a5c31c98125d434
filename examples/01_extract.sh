#!/usr/bin/env bash
# A folder of videos to shards: bash 01_extract.sh [FOLDER]
set -euo pipefail
media=$(cd "$(dirname "$0")" && pwd)/media
out=${1:-$(mktemp -d)}

# Two methods in one decode. The same command again would find everything done.
mrx extract --method mbpm --method dynamic-image "$media" -o "$out/shards"

mrx ls "$out/shards"
mrx verify "$out/shards"
echo "written to $out/shards"

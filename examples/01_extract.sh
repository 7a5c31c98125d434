#!/usr/bin/env bash
# Extract a folder of videos: bash 01_extract.sh [FOLDER]
set -euo pipefail
media=$(cd "$(dirname "$0")" && pwd)/media
out=${1:-$(mktemp -d)}

# Compute two methods in one decode. Repeating the command would find everything done.
mrx extract --method mbpm --method dynamic-image "$media" -o "$out/shards"

mrx ls "$out/shards"
mrx verify "$out/shards"
echo "written to $out/shards"

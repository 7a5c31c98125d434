#!/usr/bin/env bash
# Ways to name many videos, and to divide and repeat the work: bash 03_many_inputs.sh [FOLDER]
set -euo pipefail
media=$(cd "$(dirname "$0")" && pwd)/media
out=${1:-$(mktemp -d)}
cd "$out"
export MRX_EXTRACT_WORKERS=1 # every option has its variable; few videos need no more processes

# A text list. --root fixes the keys, however the list grows.
printf '%s\n' "$media/rotate.mp4" "$media/deform.mp4" > list.txt

# A rehearsal: frames, bytes and key of each video; nothing is written.
mrx extract @list.txt --root "$media" -o from-list --dry-run
mrx extract @list.txt --root "$media" -o from-list

# The list has grown: only what is new is done.
echo "$media/translate.mp4" >> list.txt
mrx extract @list.txt --root "$media" -o from-list

# A CSV gives parts of videos, with names and labels of their own.
cat > parts.csv <<CSV
path,key,start,end,label
$media/approach.mp4,approach/begin,0,1.2,near
$media/approach.mp4,approach/end,1.2,2.4,far
CSV
mrx extract parts.csv -o from-csv

# A list on stdin, its names separated by NUL, so that any name survives.
find "$media" -name '*.mp4' -print0 | mrx extract -0 - --root "$media" -o from-stdin --segments 2

# Two shares of one job, as two machines would do them, into one folder.
for share in 0/2 1/2; do
  mrx extract "$media" --shard "$share" -o shares --segments 2
done
mrx verify from-list from-csv from-stdin shares
echo "written to $out"

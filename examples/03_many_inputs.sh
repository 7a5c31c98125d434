#!/usr/bin/env bash
# Name many inputs, share the work, and resume it: bash 03_many_inputs.sh [FOLDER]
set -euo pipefail
media=$(cd "$(dirname "$0")" && pwd)/media
out=${1:-$(mktemp -d)}
cd "$out"
export MRX_EXTRACT_WORKERS=1 # every option has a variable; one process is enough here

# A text list. --root keeps the keys stable when the list grows.
printf '%s\n' "$media/rotate.mp4" "$media/deform.mp4" > list.txt

# A dry run prints frames, bytes and key of each video, and writes nothing.
mrx extract @list.txt --root "$media" -o from-list --dry-run
mrx extract @list.txt --root "$media" -o from-list

# The list has grown: only the new video is extracted.
echo "$media/translate.mp4" >> list.txt
mrx extract @list.txt --root "$media" -o from-list

# A CSV selects parts of videos, with their own keys and labels.
cat > parts.csv <<CSV
path,key,start,end,label
$media/approach.mp4,approach/begin,0,1.2,near
$media/approach.mp4,approach/end,1.2,2.4,far
CSV
mrx extract parts.csv -o from-csv

# A NUL-separated list on stdin works for any file name.
find "$media" -name '*.mp4' -print0 | mrx extract -0 - --root "$media" -o from-stdin --segments 2

# Two shares of one job, as on two machines, go into one folder.
for share in 0/2 1/2; do
  mrx extract "$media" --shard "$share" -o shares --segments 2
done
mrx verify from-list from-csv from-stdin shares
echo "written to $out"

#!/usr/bin/env bash
# Makes every table and figure of this folder again from its shards. Needs no GPU and no network.
# From the root of the repository, with int4-collapse in PATH or its folder in BIN.
set -euo pipefail
tool=${BIN:+$BIN/}int4-collapse
here=outputs/reference
[[ -f $here/shards.tar.xz ]] || { echo "$here/shards.tar.xz is not here: run this from the root of the repository" >&2; exit 2; }
running=()
all() { for each in "${running[@]}"; do wait "$each"; done; running=(); }  # fails where one of them did
windows=(--before 20000:22800 --end 27600:28600)

tar xJf $here/shards.tar.xz -C $here
tar xJf $here/methods/shards.tar.xz -C $here/methods
tar xJf $here/interventions/shards.tar.xz -C $here/interventions
# Two at a time; what a command says is shown only where it fails.
quietly='out=$("$@" 2>&1) || { echo "$out" >&2; exit 255; }'
# The interventions are windows of many arms, not trajectories: their shards are read by tests.evidence alone.
folders=$(cd $here && find . -path ./interventions -prune -o \( -name run.json -o -name fork.json \) -print | xargs -n 1 dirname | sort)
printf "$here/%s\n" $folders | xargs -P 2 -I{} bash -c "$quietly" - "$tool" reduce {}
for seed in 0 1; do
    printf '%s\0' compare $here/schedules/{constant,wsd,cosine}-seed$seed "${windows[@]}" --threshold 1.25 --out $here/schedules/seed$seed |
        xargs -0 bash -c "$quietly" - "$tool" &
    running+=($!)
done
all
printf '%s\0' compare $here/grids --before 4000:6000 --end 13800:14300 --variant all --out $here/grids |
    xargs -0 bash -c "$quietly" - "$tool" &
running+=($!)
printf '%s\0' compare $here/schedules/constant-seed{0,1} --before 4000:6000 --end 27600:28600 --out $here/schedules/whole-run |
    xargs -0 bash -c "$quietly" - "$tool" &
running+=($!)
printf '%s\0' compare $here/methods/{constant,wsd,cosine} "${windows[@]}" --variant all --out $here/methods |
    xargs -0 bash -c "$quietly" - "$tool" &
running+=($!)
printf '%s\0' compare $here/methods/{constant,wsd,cosine-mechanism} "${windows[@]}" --out $here/methods/mechanism |
    xargs -0 bash -c "$quietly" - "$tool" &
running+=($!)
printf '%s\0' compare $here/overtrained --before 31300:70500 --end 132200:140000 --out $here/overtrained |
    xargs -0 bash -c "$quietly" - "$tool" &
running+=($!)
all
printf '%s\0' compare $here/schedules/{constant,cosine,wsd}-seed{0,1} "${windows[@]}" --out $here/schedules |
    xargs -0 bash -c "$quietly" - "$tool"
again=$here/sweeps/suite
printf '%s\0' compare "${windows[@]}" --threshold 1.25 --out $here/schedules/trainings \
    --group constant=$(printf '%s,' $here/schedules/constant-seed{0,1} $here/schedules/earlier/constant-seed{0,1}.csv) \
    --group decayed=$(printf '%s,' $here/schedules/{wsd,cosine}-seed{0,1} $again) \
    --stratum 0=$(printf '%s,' $here/schedules/{constant,wsd,cosine}-seed0 $here/schedules/earlier/constant-seed0.csv $again) \
    --stratum 1=$(printf '%s,' $here/schedules/{constant,wsd,cosine}-seed1 $here/schedules/earlier/constant-seed1.csv) |
    xargs -0 bash -c "$quietly" - "$tool"
rm $here/schedules/{trainings,whole-run}/comparison.png  # the curves are those of schedules/comparison.png
${BIN:+$BIN/}python -m tests.evidence &
running+=($!)
for each in fork schedules/cosine-seed0; do
    bash -c "$quietly" - "$tool" report $here/$each
done
all
echo "tables, comparisons, reports, figures and findings of $here are made again"

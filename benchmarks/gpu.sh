#!/usr/bin/env bash
# Measures on a GPU what docs/benchmarks.md lists, in under ten minutes and without network: benchmarks/gpu.sh [FOLDER]
#
# It needs an environment with vlrun, its plugins and pytest on PATH (PYTHON=/path/to/python names another one), and no
# data: runner bench --demo makes texts and features. What fails is said and left out. FOLDER gets one JSON file for
# each run, the test report, a trace for TensorBoard's profiler plugin and Perfetto, and table.txt.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
out=$(realpath -m "${1:-benchmarks/results/gpu}")
mkdir -p "$out"
end=$((SECONDS + ${SECONDS_ALLOWED:-570}))

# measure NAME EXPERIMENT WORDS...: a run of runner bench, if there is time for it
measure() {
	local name=$1 experiment=$2
	shift 2
	local left=$((end - SECONDS))
	((left > 15)) || { echo "no time left for $name"; return; }
	echo "== $name ($left s left)"
	timeout "$((left < 90 ? left : 90))" "$python" -m vlrun bench "experiments/$experiment.yaml" --demo --steps 10 \
		--json "$out/$name.json" "$@" >"$out/$name.txt" || echo "$name: failed, status $?"
}

"$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || { echo "torch sees no GPU"; exit 1; }
nvidia-smi -L
"$python" -m vlrun doctor >"$out/doctor.txt" 2>&1

# 1. The step in bf16 at base size, beside the paper's way, with the trace of one of them; then retrieval
steps=(--only step --precision bf16)
measure rosita rosita_vqa_trainval "${steps[@]}" --batch 32,256 --against benchmarks/baselines --trace "$out/trace"
measure lxmert_s lxmert_s_vqa "${steps[@]}" --batch 32,256 --against benchmarks/baselines
measure lxmert lxmert_vqa "${steps[@]}" --batch 32,256 --against benchmarks/baselines
for experiment in rosita_itr_coco lxmert_s_ir lxmert_retrieval_flickr; do
	measure "pairs-$experiment" "$experiment" --only task --precision fp32,bf16 tasks.0.pairs_per_batch=null
done

# 2. What the tests say
left=$((end - SECONDS - 180))
timeout "$((left > 60 ? left : 60))" "$python" -m pytest -q -m gpu tests/gpu --durations=10 2>&1 | tee "$out/tests.txt" | tail -5

# 3. Each task with the batch of its paper: hours of the whole training
for experiment in rosita_refcoco+ rosita_itr_flickr lxmert_s_gqa lxmert_s_ir lxmert_gqa lxmert_nlvr2; do
	measure "task-$experiment" "$experiment" "${steps[@]}"
done

# 4. Compiled or not; features on the device, or from workers; several GPUs
for name in true false; do
	measure "compile-$name" rosita_vqa "${steps[@]}" --batch 256 "train.compile=$name"
done
for name in device workers; do
	measure "residency-$name" rosita_vqa "${steps[@]}" --batch 256 "features.residency=$name"
done
measure features rosita_itr_flickr --only start-up,features
if (($(nvidia-smi -L | wc -l) > 1)); then
	measure two-gpus rosita_vqa "${steps[@]}" --batch 256 --nproc 2
fi

"$python" benchmarks/aims.py --show "$out"/*.json | tee "$out/table.txt"
echo "$((SECONDS)) s; everything is in $out"

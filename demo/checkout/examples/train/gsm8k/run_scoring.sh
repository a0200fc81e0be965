# Score answers to the GSM8K-like problems with skyrl-gym's own environment. Run from this folder:
#   bash run_scoring.sh [options of score_answers.py]
set -euo pipefail

# SkyRL's scripts get skyrl-gym through `uv run`; this one needs no project environment, only the folder.
repo="${SKYRL_REPO_ROOT:-$(cd ../../.. && pwd)}"
export PYTHONPATH="$repo/skyrl-gym"
data="${SKYRL_DATA_DIR:-$HOME/data}/gsm8k"

[ -f "$data/validation.parquet" ] || python gsm8k_dataset.py --output_dir "$data"
python score_answers.py --data "$data/validation.parquet" "$@"

#!/usr/bin/env bash
# What action.yml runs. Everything it needs is in the environment; nothing secret is written anywhere.
set -euo pipefail

command -v countersign >/dev/null || python3 -m pip install --quiet "$COUNTERSIGN_CLIENT"

run="$GITHUB_SERVER_URL/$GITHUB_REPOSITORY/actions/runs/$GITHUB_RUN_ID"
what=(--model "$MODEL" --version "$VERSION" --alias "$ALIAS")

# What stands in the way, for whoever looks at the run; that something does is no failure yet.
{
  echo "### $MODEL version $VERSION to $ALIAS"
  echo '```'
  countersign explain "${what[@]}" || true
  echo '```'
} >>"$GITHUB_STEP_SUMMARY"

found=$(mktemp)
status=0
countersign promote "${what[@]}" --reason "${REASON:-$GITHUB_SHA, $run}" --wait --timeout "$TIMEOUT" --json \
  >"$found" || status=$?

# Nothing is on stdout if there never was a promotion.
read -r id state < <(python3 - "$found" <<'PYTHON'
import json, sys
text = open(sys.argv[1]).read()
promotion = json.loads(text) if text else {}
print(promotion.get("id", "-"), promotion.get("state", "-"))
PYTHON
)
{
  echo "promotion=$id"
  echo "state=$state"
  echo "status=$status"
} >>"$GITHUB_OUTPUT"
echo "Promotion $id: $state" >>"$GITHUB_STEP_SUMMARY"
exit "$status"

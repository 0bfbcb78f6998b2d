#!/usr/bin/env bash
# Your own certificate and API keys, without SageMaker: `docker run` on a host of yours. Needs docker, openssl and curl.
set -euo pipefail
IMAGE=${IMAGE:-headway}
MODEL=${MODEL:-Qwen/Qwen3-0.6B}
PORT=${PORT:-8443}
DOCKER=${DOCKER:-docker}
OPTIONS=${OPTIONS:---publish 127.0.0.1:$PORT:$PORT}   # with a GPU add: --gpus all

secrets=$(mktemp -d)
container=
trap '[ -z "$container" ] || $DOCKER rm --force "$container" >/dev/null; rm -rf "$secrets"' EXIT

# A certificate for localhost that we signed ourselves; a real one comes from your CA.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$secrets/key.pem" -out "$secrets/cert.pem" 2>/dev/null
# Two keys, one a line: clients change over while both count. The server reads the file again when it changes.
openssl rand -hex 24 >"$secrets/keys"
openssl rand -hex 24 >>"$secrets/keys"
chmod -R a+rX "$secrets"   # the container may run as any user

# shellcheck disable=SC2086 # OPTIONS are several words
container=$($DOCKER run --detach $OPTIONS --read-only --tmpfs /tmp --volume "$secrets:/secrets:ro" \
  -e HF_MODEL_ID="$MODEL" -e SM_VLLM_PORT="$PORT" -e SM_VLLM_MAX_MODEL_LEN=2048 \
  -e SM_VLLM_SSL_KEYFILE=/secrets/key.pem -e SM_VLLM_SSL_CERTFILE=/secrets/cert.pem \
  -e SM_VLLM_API_KEY_FILE=/secrets/keys "$IMAGE" serve)
until curl --silent --fail --cacert "$secrets/cert.pem" "https://localhost:$PORT/ping" >/dev/null; do
  $DOCKER inspect --format '{{.State.Running}}' "$container" | grep -q true || { $DOCKER logs --tail 3 "$container" >&2; exit 1; }
  sleep 1
done

ask() {
  curl --silent --show-error --cacert "$secrets/cert.pem" --header 'Content-Type: application/json' "$@" "https://localhost:$PORT/v1/completions" \
    --data '{"prompt": "The sea is", "max_tokens": 8, "temperature": 0}' --write-out '\n%{http_code}\n'
}
echo "without a key:"
ask
for key in $(cat "$secrets/keys"); do
  echo "with a key:"
  ask --header @<(echo "Authorization: Bearer $key")   # not on the command line, which everybody can read
done

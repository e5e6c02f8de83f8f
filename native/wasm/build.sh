#!/usr/bin/env bash
# Builds native/wasm/lorikeet.wasm, byte for byte the same for one version of the compiler.
#
#   native/wasm/build.sh [OUTPUT]      needs emcc (Debian package emscripten, 3.1.6)
#
# The module takes its memory from outside, shared, so that every thread of the pool runs its own instance
# over one memory. It is not a pthread build: no thread-local data, no malloc.
set -euo pipefail
cd "$(dirname "$0")"

command -v emcc >/dev/null || { echo "emcc is not installed; on Debian: apt-get install --no-install-recommends emscripten" >&2; exit 1; }

sources=(
  src/linear/storage.c
  src/linear/dora.c
  src/linear/activations.c
  src/linear/float_panels.c
  src/linear/int8_panels.c
  src/executor/pool.c
  src/executor/embed.c
  src/executor/elementwise.c
  src/executor/linear_op.c
  src/executor/lora_op.c
  src/executor/replace_op.c
  src/executor/route.c
  src/executor/expert_op.c
  src/executor/rope_kv_write.c
  src/executor/attention.c
  src/executor/sample.c
)

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
objects=()
for source in "${sources[@]}"; do
  objects+=("$directory/$(basename "$source" .c).o")
  emcc -c "$source" -o "${objects[-1]}" \
    -O3 -msimd128 -matomics -mbulk-memory -ffreestanding -fno-math-errno -fno-unroll-loops \
    -Wall -Wextra -Werror -Iinclude &
done
# One by one: without arguments `wait` forgets the failures.
for job in $(jobs -p); do wait "$job"; done

# -O1 leaves Binaryen's optimiser out. It undoes the order of instructions that kernels were given (KEEP_ORDER) and
# merges functions until Bun's compiler allocates registers badly: int8 with several rows measured a third of its speed.
emcc "${objects[@]}" -o "${1:-lorikeet.wasm}" -O1 \
  --no-entry -sSTANDALONE_WASM -sIMPORTED_MEMORY -Wl,--shared-memory -sTOTAL_STACK=65536 \
  -sINITIAL_MEMORY=1048576 -sMAXIMUM_MEMORY=4294967296 -sALLOW_MEMORY_GROWTH

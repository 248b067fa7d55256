# Shared by the programs of .ci: source it, it moves to the top of the checkout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }

die() { say "$*"; exit 1; }

# As root, by being it or by sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# One short name for the contents of the files given.
hash_of() { cat "$@" | sha256sum | cut -c1-16; }

# Where .ci/interop keeps the peers.
interop_cache=${MESH_INTEROP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mesh-interop}

#!/bin/sh
# Runs the tests of the memory crates under valgrind and ThreadSanitizer, from anywhere.
# Fails on any finding, and when a tool is missing. ThreadSanitizer needs flags that stable Rust
# keeps back: where the toolchain refuses them the stage says so and why, and is not counted.
set -eu

cd "$(dirname "$0")/../.."
host=$(rustc -vV | sed -n 's/^host: //p')
target=$(printf '%s' "$host" | tr 'a-z-' 'A-Z_')
base=${CARGO_TARGET_DIR:-target}

say() { printf '\n== %s\n' "$*"; }

run() {
    printf '+'
    printf ' %s' "$@"
    printf '\n'
    "$@"
}

say "memcheck: underpin-dma"
if ! command -v valgrind >/dev/null; then
    echo "valgrind is missing: apt-get install valgrind libc6-dbg" >&2
    exit 1
fi
# Memory given up for good is kept in a list, so whatever is lost is a leak of ours. Children of
# fork inherit what their parent's other threads held: they stay silent and answer by pipe.
run env "CARGO_TARGET_${target}_RUNNER=valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite --show-leak-kinds=definite --child-silent-after-fork=yes" \
    cargo test -p underpin-dma --lib --tests
echo "memcheck: clean"

say "ThreadSanitizer: underpin-dma, underpin-rt"
# The standard library is not instrumented, which is what the second flag permits. The copies of
# dma::copy are inline assembly on x86-64: no sanitizer sees them, here or elsewhere.
flags="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
tsan="$base/tsan"
mkdir -p "$tsan"
tsan=$(cd "$tsan" && pwd)
echo 'fn main() {}' >"$tsan/probe.rs"
# shellcheck disable=SC2086
if ! why=$(RUSTC_BOOTSTRAP=1 rustc $flags --target "$host" -o "$tsan/probe" "$tsan/probe.rs" 2>&1 &&
    "$tsan/probe" 2>&1); then
    echo "not available: $(printf '%s' "$why" | head -n 1)"
    exit 0
fi
# Races that are none, all inside of uninstrumented code: the test harness handing over a test and
# its result; the channels of the standard library, which it uses too; the once-cell that keeps the
# start of time; and the last drop of an Arc (inlined or not), ordered by a fence, which this
# sanitizer does not model: so destructors of shared values are not judged.
cat >"$tsan/suppressions" <<'END'
race:MaybeUninit<test::event::CompletedTest>
race:Mutex<core::option::Option<test::run_test::{closure#0}>>> as core::ops::drop::Drop>::drop
race:std::sync::mpmc::
race:<underpin_rt::time::Instant>::now
race:<alloc::sync::Arc<*>>::drop_slow
race:<alloc::sync::Arc<*> as core::ops::drop::Drop>::drop
END
run env RUSTC_BOOTSTRAP=1 RUST_BACKTRACE=0 "RUSTFLAGS=$flags" "TSAN_OPTIONS=suppressions=$tsan/suppressions" \
    cargo test -p underpin-dma -p underpin-rt --lib --tests --target "$host" --target-dir "$tsan"
echo "ThreadSanitizer: clean"

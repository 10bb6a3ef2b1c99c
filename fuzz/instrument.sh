#!/bin/sh
# Called by cargo in place of rustc (RUSTC_WRAPPER): instruments what bytes from outside reach, and nothing else, so that
# other crates are those that the workspace builds. The passes are LLVM's own and need no unstable option.
case " $* " in
*" --crate-name etm_agent "* | *" --crate-name rustbgpd_wire "* | *" --crate-name rustbgpd_fsm "*)
    exec "$@" -Ccodegen-units=4 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$@" ;;
esac

//! The target `hostile_server` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = underpin_fuzz::hostile_server::run(bytes);
});

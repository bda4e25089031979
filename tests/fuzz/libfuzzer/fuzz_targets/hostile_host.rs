//! The target `hostile_host` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = underpin_fuzz::hostile_host::run(bytes);
});

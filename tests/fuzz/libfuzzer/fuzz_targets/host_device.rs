//! The target `host_device` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = underpin_fuzz::host_device::run(bytes);
});

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gpushare_core::fuzzing::feed("journals", data));

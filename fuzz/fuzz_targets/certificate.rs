#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mifsec_tests::fuzz::certificate::certificate(data));

//! See `ez_fuzz::order`.
#![no_main]
#![allow(unsafe_code, missing_docs, reason = "the macro exports the symbol that libFuzzer calls")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ez_fuzz::order(data));

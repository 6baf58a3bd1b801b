//! See `inputs::REPORT`.

#![no_main]

use evenkeel_fuzz::inputs::REPORT;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (REPORT.hand_in)(data);
});

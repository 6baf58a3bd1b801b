//! See `inputs::ASSIGNMENT`.

#![no_main]

use evenkeel_fuzz::inputs::ASSIGNMENT;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (ASSIGNMENT.hand_in)(data);
});

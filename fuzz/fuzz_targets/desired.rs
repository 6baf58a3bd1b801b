//! See `inputs::DESIRED`.

#![no_main]

use evenkeel_fuzz::inputs::DESIRED;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (DESIRED.hand_in)(data);
});

//! See `inputs::DOCUMENT`.

#![no_main]

use evenkeel_fuzz::inputs::DOCUMENT;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (DOCUMENT.hand_in)(data);
});

//! See `inputs::RELEASE`.

#![no_main]

use evenkeel_fuzz::inputs::RELEASE;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (RELEASE.hand_in)(data);
});

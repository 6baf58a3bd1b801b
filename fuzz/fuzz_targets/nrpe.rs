//! See `inputs::NRPE`.

#![no_main]

use evenkeel_fuzz::inputs::NRPE;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (NRPE.hand_in)(data);
});

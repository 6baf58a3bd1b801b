//! See `inputs::HAPROXY`.

#![no_main]

use evenkeel_fuzz::inputs::HAPROXY;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (HAPROXY.hand_in)(data);
});

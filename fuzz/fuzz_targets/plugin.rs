//! See `inputs::PLUGIN`.

#![no_main]

use evenkeel_fuzz::inputs::PLUGIN;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (PLUGIN.hand_in)(data);
});

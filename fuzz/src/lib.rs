//! What the targets hand their input to. The tests of evenkeel do the same with what is known already.

#[path = "../../tests/hostile/inputs/mod.rs"]
pub mod inputs;

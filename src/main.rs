//! evenkeel: parse, run, exit code.

fn main() {}

//! The desired adapter.

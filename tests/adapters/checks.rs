//! The checks adapter.

//! The notify adapter.

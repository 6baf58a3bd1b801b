//! The deploy adapter.

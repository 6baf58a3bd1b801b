//! The haproxy adapter.

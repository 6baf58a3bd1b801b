//! The bus adapter.

//! shared.

//! Messages: malformed, early, refused, and what the fuzzers keep.

mod deltas;
mod early_data;
mod errors;
mod fuzz_corpus;
mod messages;
mod restart;

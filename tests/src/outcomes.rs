//! What users and other programs hear of a command's outcome: text, JSON, and the exit status.

mod bottlenecks;
mod json;
mod streams;
mod terminal;
mod words;

//! Tests of the whole: what no single crate can prove of itself.
//!
//! There is one file of cases per subject under `cases/`.

#[cfg(test)]
mod cases;

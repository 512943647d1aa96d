//! Authentication, pairing and rights.

mod authentication;
mod pairing;
mod rights;

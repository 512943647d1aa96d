//! What one client may take of the server, and what long runs take.

mod endurance;
mod per_client;

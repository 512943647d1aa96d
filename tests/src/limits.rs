//! What one client may take of the server, and what long runs take.

mod departures;
mod endurance;
mod per_client;

//! Attacks: clients, servers and names that mean harm.

mod adversary;
mod confinement;
mod flood;
mod names;
mod server;

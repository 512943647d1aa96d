//! Parts of the program `quire`, a command-line client.
//!
//! [`args`] defines the command line; [`config`] and [`operand`] interpret it. [`commands`] runs
//! commands within one [`CliSession`]. [`menu`] is the interactive client on top.

pub mod args;
pub mod commands;
pub mod config;
mod exit;
mod hint;
pub mod menu;
pub mod operand;
pub mod output;
mod progress;
mod session;

pub use exit::Exit;
pub use session::CliSession;

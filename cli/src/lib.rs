//! Parts of the program `quire`, a command-line client.
//!
//! [`args`] defines the command line; [`config`] and [`operand`] interpret it. [`commands`] runs
//! commands within one [`CliSession`]. [`menu`] is the interactive client on top.

pub mod args;
pub mod commands;
pub mod config;
pub mod event;
mod exit;
mod failure;
pub mod menu;
pub mod operand;
pub mod output;
mod progress;
mod session;
mod similar;
mod standard_input;

pub use exit::Exit;
pub use failure::CommandFailure;
pub use session::CliSession;

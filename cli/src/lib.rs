//! The program `quire`.
//!
//! [`args`] is the command line, [`config`] and [`operand`] what it means, and [`commands`] what it
//! does, within one [`CliSession`]. [`menu`] is the interactive client on top.

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

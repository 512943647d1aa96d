//! The scripts of `tests/adversary`, and a Python environment with the packages they need.
//!
//! The environment is created once, beside cargo's build output, from pinned versions; that needs the
//! network. Where it can't be created, the test reports why and is skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use super::skip;

/// A Python interpreter with the packages that the scripts need.
#[derive(Debug, Clone)]
pub struct Python(PathBuf);

impl Python {
    /// Creates the environment, or takes that of an earlier run.
    pub fn find() -> Option<Self> {
        static MADE: OnceLock<Result<Python, String>> = OnceLock::new();
        match MADE.get_or_init(Self::make) {
            Ok(python) => Some(python.clone()),
            Err(why) => {
                skip(&format!("no Python to attack with: {why}"));
                None
            }
        }
    }

    fn make() -> Result<Self, String> {
        let wanted = fs::read_to_string(scripts().join(REQUIREMENTS)).unwrap();
        let test = std::env::current_exe().unwrap();
        let target = test.ancestors().nth(3).unwrap();
        let place = target.join("adversary");
        let made = Self(place.join("bin/python"));
        if fs::read_to_string(place.join(REQUIREMENTS)).is_ok_and(|has| has == wanted) {
            return Ok(made);
        }
        // Created under another name first, so that an incomplete environment is never found.
        let new = tempfile::tempdir_in(target).unwrap();
        run(Command::new("python3").args(["-m", "venv"]).arg(new.path()))?;
        run(Command::new(new.path().join("bin/python"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-input",
                "--no-deps",
                "-r",
            ])
            .arg(scripts().join(REQUIREMENTS)))?;
        fs::write(new.path().join(REQUIREMENTS), &wanted).unwrap();
        let _ = fs::remove_dir_all(&place);
        // Another process may have been faster, with the same result.
        let _ = fs::rename(new.path(), &place);
        Ok(made)
    }

    /// A command that runs a script; the caller adds arguments.
    pub fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.0);
        command
            .arg("-B")
            .arg(scripts().join(name))
            .stdin(Stdio::null());
        command
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../adversary")
}

fn run(command: &mut Command) -> Result<Output, String> {
    let said = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if said.status.success() {
        return Ok(said);
    }
    let why = String::from_utf8_lossy(&said.stderr);
    Err(why.lines().last().unwrap_or("it failed").to_owned())
}

/// The packages and their versions.
const REQUIREMENTS: &str = "requirements.txt";

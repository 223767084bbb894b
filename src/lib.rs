//! Millstream: MQTT in, a persistent partitioned log that Kafka clients read out.
//!
//! The product, in the order of a start: `cli` (what was asked), `config` (what it means),
//! `logs`, `admin` (health and metrics over HTTP), `serve` (the running broker). Beside it: `passwd` (users),
//! `certs` (certificates), `health` (asks another process), `data` (looks into data folders and repairs them).

mod admin;
mod certs;
mod cli;
mod config;
mod data;
mod health;
mod logs;
mod memory;
mod passwd;
mod serve;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use cli::{Cli, Command, LogCommand, StateCommand};

/// Does what a command line asks for; the first argument is the program's name. Complains on stderr, one line for each
/// mistake. A library's function so that the demo can be the broker, too.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return cli::explain(&error),
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&*error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    match command {
        Command::Serve(args) => {
            let load = move || config::load(args.config.as_deref(), std::env::vars_os(), args.flags());
            serve::run(load()?, Box::new(load))
        }
        Command::CheckConfig { file } => {
            let loaded = config::load(Some(&file), std::env::vars_os(), Vec::new())?;
            serve::check_files(&loaded.config)?;
            // Not `println!`: it panics when the reader (`| head`) has gone.
            Ok(io::stdout().write_all(config::report(&loaded).as_bytes())?)
        }
        Command::Health { address } => Ok(health::check(&address)?),
        Command::Certs(args) => {
            let said = certs::run(&args)?;
            Ok(io::stdout().write_all(said.as_bytes())?)
        }
        Command::Passwd(args) => Ok(passwd::run(&args)?),
        Command::Log(LogCommand::Verify(folder)) => data::verify(&folder),
        Command::Log(LogCommand::Dump(args)) => data::dump(&args),
        Command::Log(LogCommand::Repair(args)) => data::repair(&args),
        Command::State(StateCommand::Rebuild(folder)) => data::rebuild(&folder),
    }
}

/// One line per error on stderr. Nothing can be done when stderr itself is gone.
fn complain(error: &dyn std::error::Error) {
    for line in error.to_string().lines() {
        let _ = writeln!(io::stderr(), "millstream: {line}");
    }
}

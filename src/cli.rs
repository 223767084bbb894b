//! The command line: a contract, scripts rely on it.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, error::ErrorKind};

use crate::{
    certs::CertsArgs,
    config::{Address, Flag},
    logs,
    passwd::PasswdArgs,
};

/// MQTT in, a persistent partitioned log out: read it with any Kafka client.
#[derive(Debug, Parser)]
#[command(name = "millstream", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the broker until SIGTERM or Ctrl-C
    ///
    /// Flags win over environment variables (MILLSTREAM__MQTT__TCP=127.0.0.1:1883), those over the
    /// file, the file over the defaults. Without any of them: MQTT on 127.0.0.1:1883, Kafka on
    /// 127.0.0.1:9092, health and metrics on 127.0.0.1:9180, data in ./millstream-data.
    Serve(Box<ServeArgs>),
    /// Check a configuration file and print what would run
    ///
    /// Exits 0 when `serve --config FILE` would accept it in this environment, else 1.
    CheckConfig {
        /// The TOML file to check
        file: PathBuf,
    },
    /// Ask a running broker whether it is ready
    ///
    /// Exits 0 when its admin listener answers 200 to GET /ready within three seconds, else 1 with the
    /// reason. For health checks where there is no curl.
    Health {
        /// The admin listener
        #[arg(value_name = "ADDR", default_value = "127.0.0.1:9180")]
        address: Address,
    },
    /// Set or delete a user of a password file
    ///
    /// The file has Mosquitto's form, a name and a hash per line; new hashes are argon2id. Asks for the password, which
    /// does not belong on a command line. A running broker takes the change on SIGHUP.
    Passwd(PasswdArgs),
    /// Make certificates for development: a CA, the server's, a client's
    ///
    /// Writes ca.crt, ca.key, server.crt, server.key, client.crt and client.key, and overwrites nothing. The server's is
    /// for localhost, this machine's name and its .local, and its addresses. certs/README.md tells how to use them.
    Certs(CertsArgs),
    /// Look into a data folder that no broker has open: verify, dump, repair
    ///
    /// A broker salvages what is damaged at its start, says so, and serves the rest; nothing of this is needed for that.
    #[command(subcommand)]
    Log(LogCommand),
    /// Rewrite the state of a data folder that no broker has open
    #[command(subcommand)]
    State(StateCommand),
}

/// What to do with a log.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Check every CRC, index and pointer; change nothing
    ///
    /// One line for each thing that is damaged. Exits 0 when nothing is, else 1.
    Verify(FolderArgs),
    /// Print what a topic or the journal holds
    ///
    /// TOPIC may be __meta, __consumer_offsets, __queues, __sessions, __retained (the state at the last checkpoint, as it
    /// was written), __mqtt (messages that no rule maps), or the word journal. Without it: what there is.
    Dump(DumpArgs),
    /// Say what is damaged and what would be done; with --yes do it
    ///
    /// Does what a start does, and rewrites damaged segments into new files, makes indexes anew, takes entries out of queues
    /// that lead to no record, and removes files that nothing names. Damaged files stay in the folder named damaged.
    Repair(RepairArgs),
}

/// What to do with the state.
#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// Make the checkpoint and the internal topics anew from segments and journal
    ///
    /// What a start does that finds no checkpoint. The old one stays in the folder named damaged.
    Rebuild(FolderArgs),
}

/// Which data folder.
#[derive(Debug, Args)]
pub struct FolderArgs {
    /// TOML file that `serve` is started with
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The data folder, if not the configuration's
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
}

impl FolderArgs {
    /// The flag, if it was given, as a setting of the configuration.
    pub fn flags(&self) -> Vec<Flag> {
        let value = self.data_dir.clone();
        value.into_iter().map(|value| Flag { flag: "--data-dir", key: "data_dir", value }).collect()
    }
}

/// Flags of `millstream log dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    #[command(flatten)]
    pub folder: FolderArgs,
    /// A topic, or journal
    pub topic: Option<String>,
    /// One of its partitions; without it all of them
    pub partition: Option<u32>,
    /// First offset, or first frame of the journal
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    pub from: i64,
    /// At most so many records or frames of each partition
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    pub max: u64,
}

/// Flags of `millstream log repair`.
#[derive(Debug, Args)]
pub struct RepairArgs {
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Do it
    #[arg(long)]
    pub yes: bool,
}

/// Flags of `millstream serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// TOML file; examples/millstream.toml shows every key
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder for everything that must survive a restart
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Where to accept MQTT: host:port or off
    #[arg(long, value_name = "ADDR")]
    mqtt: Option<Address>,
    /// Where to accept MQTT over TLS: host:port or off; needs --certs or [tls]
    #[arg(long, value_name = "ADDR")]
    mqtt_tls: Option<Address>,
    /// Where to accept MQTT over WebSocket: host:port or off
    #[arg(long, value_name = "ADDR")]
    mqtt_ws: Option<Address>,
    /// Where to accept MQTT over secure WebSocket: host:port or off; needs --certs or [tls]
    #[arg(long, value_name = "ADDR")]
    mqtt_wss: Option<Address>,
    /// Where to accept Kafka clients: host:port or off
    #[arg(long, value_name = "ADDR")]
    kafka: Option<Address>,
    /// Where to accept Kafka clients over TLS: host:port or off; needs --certs or [tls]
    #[arg(long, value_name = "ADDR")]
    kafka_tls: Option<Address>,
    /// Where to answer /live, /ready and /metrics: host:port or off
    #[arg(long, value_name = "ADDR")]
    admin: Option<Address>,
    /// Folder with server.crt, server.key and ca.crt, as `millstream certs` makes it
    #[arg(long, value_name = "DIR")]
    certs: Option<String>,
    /// One line per event for people, or one JSON object per line
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    log_format: Option<String>,
    /// error, warn, info, debug, trace, or directives such as info,broker=debug
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    log_level: Option<String>,
}

impl ServeArgs {
    /// The flags that were given, as settings of the configuration.
    pub fn flags(&self) -> Vec<Flag> {
        let address = |address: &Option<Address>| address.as_ref().map(Address::to_string);
        [
            ("--data-dir", "data_dir", self.data_dir.clone()),
            ("--mqtt", "mqtt.tcp", address(&self.mqtt)),
            ("--mqtt-tls", "mqtt.tls", address(&self.mqtt_tls)),
            ("--mqtt-ws", "mqtt.ws", address(&self.mqtt_ws)),
            ("--mqtt-wss", "mqtt.wss", address(&self.mqtt_wss)),
            ("--kafka", "kafka.tcp", address(&self.kafka)),
            ("--kafka-tls", "kafka.tls", address(&self.kafka_tls)),
            ("--admin", "admin.http", address(&self.admin)),
            ("--certs", "tls.certs", self.certs.clone()),
            ("--log-format", "log_format", self.log_format.clone()),
            ("--log-level", "log_level", self.log_level.clone()),
        ]
        .into_iter()
        .filter_map(|(flag, key, value)| Some(Flag { flag, key, value: value? }))
        .collect()
    }
}

fn level(text: &str) -> Result<String, String> {
    logs::check_level(text).map(|()| text.to_owned())
}

/// Prints help or version where they were asked for (exit 0), else the mistake in one line (exit 2).
pub fn explain(error: &clap::Error) -> ExitCode {
    let usage_error = ExitCode::from(2);
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            usage_error
        }
        _ => {
            let line = one_line(&error.to_string());
            let _ = writeln!(io::stderr(), "millstream: {line} (see millstream --help)");
            usage_error
        }
    }
}

/// clap spreads a message over lines and adds usage; a script's log wants the message alone.
fn one_line(rendered: &str) -> String {
    let message = rendered.strip_prefix("error: ").unwrap_or(rendered);
    message
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_settings_and_absent_ones_do_not() {
        let cli = Cli::try_parse_from(["millstream", "serve", "--mqtt", "off", "--data-dir", "/d"]).expect("valid");
        let Command::Serve(args) = cli.command else { panic!("serve expected") };
        let flags = args.flags();
        let pairs: Vec<_> = flags.iter().map(|f| (f.flag, f.key, f.value.as_str())).collect();
        assert_eq!(pairs, [("--data-dir", "data_dir", "/d"), ("--mqtt", "mqtt.tcp", "off")]);
    }

    #[test]
    fn a_mistake_is_told_in_one_line() {
        for args in [
            vec!["millstream", "serve", "--mqtt", "1883"],
            vec!["millstream", "serve", "--mqqt", "off"],
            vec!["millstream", "serve", "--log-format", "xml"],
            vec!["millstream", "serve", "--log-level", "inof"],
            vec!["millstream", "check-config"],
            vec!["millstream", "sevre"],
        ] {
            let error = Cli::try_parse_from(&args).expect_err("a mistake");
            let line = one_line(&error.to_string());
            assert!(!line.contains('\n') && !line.contains("Usage") && line.len() > 20, "{line}");
        }
    }
}

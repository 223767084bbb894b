//! `millstream log` and `millstream state`: a data folder that no broker has open.

mod dump;

use std::error::Error;
use std::io::{self, Write};

use bridge::tools::{self, Finding, Repaired, Verified};

use crate::cli::{FolderArgs, RepairArgs};
use crate::config::{self, Config, Loaded};
use crate::{logs, serve};

pub use dump::dump;

/// Something is wrong with the folder, and that has been said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Damaged(String);

fn configuration(folder: &FolderArgs) -> Result<Config, Box<dyn Error>> {
    let Loaded { config, .. } = config::load(folder.config.as_deref(), std::env::vars_os(), folder.flags())?;
    Ok(config)
}

/// Exits with an error when anything is damaged.
pub fn verify(folder: &FolderArgs) -> Result<(), Box<dyn Error>> {
    let config = configuration(folder)?;
    let verified = tools::verify(&config.data_dir)?;
    let mut out = io::stdout().lock();
    say(&mut out, &verified)?;
    match verified.findings.len() {
        0 => Ok(writeln!(out, "nothing is damaged")?),
        count => Err(Damaged(format!("{count} damaged; millstream log repair says what can be done")).into()),
    }
}

fn say(out: &mut impl Write, verified: &Verified) -> io::Result<()> {
    let Verified { findings, orphans, checkpoint_lsn, frames, topics, bytes, pointers, .. } = verified;
    for finding in findings {
        writeln!(out, "damaged: {finding}")?;
    }
    for path in orphans {
        writeln!(out, "not needed: {}", path.display())?;
    }
    writeln!(
        out,
        "checkpoint {checkpoint_lsn}, {frames} frames behind it, {topics} topics with {bytes} bytes, {pointers} entries \
         in queues"
    )
}

/// Says what is damaged; with `--yes` puts it right.
pub fn repair(args: &RepairArgs) -> Result<(), Box<dyn Error>> {
    let config = configuration(&args.folder)?;
    let found = tools::verify(&config.data_dir)?;
    let mut out = io::stdout().lock();
    say(&mut out, &found)?;
    if !args.yes {
        for finding in &found.findings {
            writeln!(out, "would: {}", remedy(finding))?;
        }
        for path in &found.orphans {
            writeln!(out, "would: remove {}", path.display())?;
        }
        let nothing = found.findings.is_empty() && found.orphans.is_empty();
        let end = if nothing { "nothing is damaged" } else { "nothing was changed; --yes does it" };
        return Ok(writeln!(out, "{end}")?);
    }
    logs::install(config.log_format, &config.log_level)?;
    let Repaired { summary, segments, dangling } = tools::repair(serve::bridge_options(&config))?;
    for path in segments {
        writeln!(out, "written anew: {}", path.display())?;
    }
    writeln!(out, "{dangling} entries that led nowhere were taken out of queues")?;
    writeln!(out, "repaired: {summary}")?;
    Ok(())
}

/// What is done about something damaged.
fn remedy(finding: &Finding) -> String {
    let file = finding.file.display();
    match finding.file.extension().and_then(|extension| extension.to_str()) {
        Some("index" | "timeindex") => format!("make {file} anew from its batches"),
        Some("journal") => format!("go on behind bytes {} of {file}, and keep a copy", finding.bytes.start),
        Some("log") => format!("write what is whole of {file} into a new file, and keep the old one"),
        _ if finding.file.as_os_str() == "checkpoint" => "make the checkpoint anew from batches and journal".to_owned(),
        _ if finding.file.ends_with("__queues.3") => "take the entry out of its queue".to_owned(),
        _ => format!("go on without {file}"),
    }
}

/// Makes keyed state and the checkpoint anew.
pub fn rebuild(folder: &FolderArgs) -> Result<(), Box<dyn Error>> {
    let config = configuration(folder)?;
    logs::install(config.log_format, &config.log_level)?;
    let repaired = tools::rebuild(serve::bridge_options(&config))?;
    writeln!(io::stdout(), "rebuilt: {}", repaired.summary)?;
    Ok(())
}

//! `portcullis run`.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use portcullis_client::{api, socket_path, user_socket};
use portcullis_manager::{
    Backend,
    core::{Accepted, Core},
    embedded::{EmbeddedBackend, EmbeddedOptions, backend::DEVICES},
    service::{Ended, Inherited, Policies, Settings, serve},
    vfio::Vfio,
};
use serde::Serialize;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use super::At;
use crate::{
    exit::{Exit, Failure},
    output::Output,
};

/// Run the service.
///
/// Uses this host's IOMMUs where it can, and else simulates a machine, which protects nothing real; the first line says which.
/// It listens at a socket that only decides by who connects: root and the user it runs as may have every device.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to program: this host through VFIO, or a simulated machine; by itself whichever is there.
    #[arg(long, value_enum, default_value_t = Platform::Auto)]
    platform: Platform,
    /// The simulated machine's IOMMU.
    #[arg(long, value_enum, default_value_t = Iommu::Vtd)]
    iommu: Iommu,
    #[command(flatten)]
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Platform {
    Auto,
    Vfio,
    Embedded,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Iommu {
    Vtd,
}

/// What the service says once it listens.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Started {
    simulated: bool,
    backend: String,
    socket: PathBuf,
    devices: Vec<String>,
    /// Why this host's own IOMMUs are not used.
    because: Option<String>,
}

/// Records of violations that are kept in memory: some 4 MiB.
const JOURNAL: usize = 1 << 14;
/// Connections that one user may have.
const CONNECTIONS: usize = 1100;

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let mut inherited = Inherited::take();
    log();
    let socket = match &arguments.at.socket {
        Some(path) => path.clone(),
        None if rustix::process::geteuid().is_root() || std::env::var_os("PORTCULLIS_SOCKET").is_some() => {
            socket_path(None)
        }
        None => user_socket(),
    };
    let (mut backend, because) = choose(arguments)?;
    backend.adopt(std::mem::take(&mut inherited.kept));
    let core = Core::start::<Failure>(backend, Accepted::default(), Ok)?;
    let started = Started {
        simulated: core.backend().capabilities().simulated,
        backend: core.backend().name(),
        socket: socket.clone(),
        devices: core.devices().map(|view| view.device.name.clone()).collect(),
        because,
    };
    let settings = Settings {
        socket,
        socket_mode: 0o666,
        policies: Policies { operators_have_all: true, ..Policies::default() },
        warnings: Vec::new(),
        journal: JOURNAL,
        disk: None,
        connections: CONNECTIONS,
    };
    let ended = serve(core, settings, inherited, |_| {
        output.show(&started, say).map_err(|failure| std::io::Error::other(failure.error))
    });
    match ended {
        Ok(()) => Ok(Exit::Done),
        Err(ended @ Ended::SafeState(_)) => Err(Failure { exit: Exit::Failed, error: Box::new(ended) }),
        Err(other) => Err(other.into()),
    }
}

fn say(started: &Started, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    if started.simulated {
        let because = started.because.as_deref().map_or_else(String::new, |why| format!(" ({why})"));
        writeln!(out, "This protects nothing real: the machine is simulated{because}.")?;
    }
    writeln!(
        out,
        "Guarding {} devices on {}: {}",
        started.devices.len(),
        started.backend,
        started.devices.join(" ")
    )?;
    writeln!(
        out,
        "Listening at {}; try `portcullis status` or `portcullis devices`.",
        started.socket.display()
    )
}

fn choose(arguments: &Args) -> Result<(Box<dyn Backend>, Option<String>), Failure> {
    let embedded = || -> Result<Box<dyn Backend>, Failure> {
        match arguments.iommu {
            Iommu::Vtd => Ok(Box::new(EmbeddedBackend::new(EmbeddedOptions::default(), &DEVICES)?)),
        }
    };
    match arguments.platform {
        Platform::Embedded => Ok((embedded()?, Some("as asked for".into()))),
        Platform::Vfio => Ok((Box::new(vfio()?), None)),
        Platform::Auto => match vfio() {
            Ok(vfio) => Ok((Box::new(vfio), None)),
            Err(why) => Ok((embedded()?, Some(why.error.to_string()))),
        },
    }
}

/// This host's own, if there is something to guard.
fn vfio() -> Result<Vfio, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new("only root can use this host's IOMMUs"));
    }
    if std::fs::read_dir("/sys/kernel/iommu_groups").map_or(true, |mut groups| groups.next().is_none()) {
        return Err(Failure::new("this host has no IOMMU that is on"));
    }
    let runtime = Path::new(api::SOCKET).parent().unwrap_or(Path::new("/run"));
    Ok(Vfio::open(runtime)?)
}

/// To the system's journal where its service manager started us, else to standard error.
fn log() {
    let filter = || EnvFilter::try_from_env("PORTCULLIS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = tracing_journald::layer()
    {
        let _ = tracing_subscriber::registry().with(journal.with_filter(filter())).try_init();
        return;
    }
    let colour =
        std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    let text =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(colour);
    let _ = tracing_subscriber::registry().with(text.with_filter(filter())).try_init();
}

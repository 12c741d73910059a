//! `portcullis run`.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use portcullis_client::{api, socket_path, user_socket};
use portcullis_manager::{
    Backend,
    configuration::{BackendChoice, Configuration},
    core::Core,
    embedded::{
        ARCHITECTURES,
        backend::{DEVICES, MOST_DEVICES},
        device::Kind,
        simulate,
    },
    service::{
        Inherited, Settings,
        privileges::{self, Needs},
        serve,
    },
    upstream::Upstream,
    vfio::Vfio,
};
use serde::Serialize;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use super::{At, configured};
use crate::{
    exit::{Exit, Failure},
    output::{Output, count},
};

/// Run the service.
///
/// Uses this host's IOMMUs where it can, and else simulates a machine, which protects nothing real; the first line says which.
/// Who may have what is what the configuration says; without one, root and the user it runs as may have every device.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Configuration: TOML, or smmuman's options where it is called `*.smmu` or `@` stands before it.
    #[arg(long, value_name = "FILE", conflicts_with = "board")]
    config: Option<String>,
    /// The same, as smmuman takes it: `portcullis run @board.smmu`.
    #[arg(value_name = "@FILE")]
    board: Option<String>,
    /// What to program: this host through VFIO, or a simulated machine; by itself whichever is there.
    #[arg(long, value_enum)]
    platform: Option<Platform>,
    /// The simulated machine's IOMMU.
    #[arg(long, value_parser = ARCHITECTURES)]
    iommu: Option<String>,
    /// The simulated machine's devices, such as `network=4`, instead of one of each kind; may be repeated.
    #[arg(long, value_name = "KIND=COUNT", value_parser = simulated)]
    simulate: Vec<(Kind, usize)>,
    #[command(flatten)]
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Platform {
    Auto,
    Vfio,
    Embedded,
}

/// Devices of one kind, as `--simulate` takes them, and how many.
fn simulated(text: &str) -> Result<(Kind, usize), String> {
    let kinds = Kind::ALL.map(|(word, ..)| word).join(", ");
    let form = || format!("write KIND=COUNT, where KIND is one of {kinds}");
    let (kind, count) = text.split_once('=').ok_or_else(form)?;
    let (_, _, kind) = Kind::ALL.into_iter().find(|(word, ..)| *word == kind).ok_or_else(form)?;
    let count = count.parse().map_err(|_| form())?;
    if !(1..=MOST_DEVICES).contains(&count) {
        return Err(format!("between 1 and {MOST_DEVICES} devices"));
    }
    Ok((kind, count))
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

/// Devices that the first lines name.
const NAMED: usize = 16;

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let mut inherited = Inherited::take();
    log();
    let file = arguments.config.as_deref().or(arguments.board.as_deref());
    let configuration = match file {
        Some(file) => configured::load(file)?,
        None => Configuration::default(),
    };
    let (mut backend, because) = choose(arguments, &configuration)?;
    backend.adopt(std::mem::take(&mut inherited.kept.backend));
    let socket = socket(arguments, &configuration);
    let disk = configured::disk(&configuration)?;
    let events = configured::events(&configuration)?;
    if let Some(address) = configuration.metrics {
        inherited.open_metrics(address)?;
    }
    let mut policies = configured::policies(&configuration)?;
    policies.operators_have_all = file.is_none();
    give_up(&*backend, &socket, &configuration)?;
    let accepted = configured::accepted(&configuration);
    let name = backend.name();
    let mut core = Core::start::<Failure>(backend, accepted, |inventory| {
        configured::adjust(&configuration, &name, inventory)
    })?;
    configured::allow(&configuration, &mut core)?;
    let mut warnings = configuration.remarks();
    warnings.extend(file.and_then(configured::writable_by_others));
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let started = Started {
        simulated: core.backend().capabilities().simulated,
        backend: core.backend().name(),
        socket: socket.clone(),
        devices: core.devices().map(|view| view.device.name.clone()).collect(),
        because,
    };
    let mut holders = socket.clone().into_os_string();
    holders.push(".clients");
    let usual = Settings::new(socket, policies);
    let settings = Settings {
        holders: Some(holders.into()),
        socket_mode: configuration.socket_mode.unwrap_or(0o666),
        warnings,
        journal: if file.is_some() { configuration.journal.records } else { usual.journal },
        disk,
        events,
        connections: configuration.connections.unwrap_or(usual.connections),
        resume_within: configuration.resume_within.unwrap_or(usual.resume_within),
        ..usual
    };
    serve(core, settings, inherited, |_| {
        output.show(&started, say).map_err(|failure| std::io::Error::other(failure.error))
    })?;
    Ok(Exit::Done)
}

/// Gives up what the service does not need, while it still has one thread.
fn give_up(backend: &dyn Backend, socket: &Path, configuration: &Configuration) -> Result<(), Failure> {
    let mut writes = Vec::new();
    if let Some(directory) = socket.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)?;
        writes.push(directory.to_path_buf());
    }
    writes.extend(configuration.journal.directory.clone());
    let host_devices = !backend.capabilities().simulated;
    if host_devices {
        std::fs::create_dir_all(runtime())?;
        writes.push(runtime().to_path_buf());
    }
    for left in privileges::give_up(&Needs { host_devices, writes }) {
        tracing::warn!("not given up: {left}");
    }
    Ok(())
}

fn socket(arguments: &Args, configuration: &Configuration) -> PathBuf {
    let root = rustix::process::geteuid().is_root();
    match (&arguments.at.socket, &configuration.socket) {
        (Some(path), _) | (None, Some(path)) => path.clone(),
        _ if root || std::env::var_os("PORTCULLIS_SOCKET").is_some() => socket_path(None),
        _ => user_socket(),
    }
}

fn say(started: &Started, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    if started.simulated {
        let because = started.because.as_deref().map_or_else(String::new, |why| format!(" ({why})"));
        writeln!(out, "This protects nothing real: the machine is simulated{because}.")?;
    }
    writeln!(
        out,
        "Guarding {} on {}: {}{}",
        count(started.devices.len(), "device"),
        started.backend,
        started.devices[..started.devices.len().min(NAMED)].join(" "),
        if started.devices.len() > NAMED { " …" } else { "" }
    )?;
    writeln!(
        out,
        "Listening at {}; try `portcullis status` or `portcullis devices`.",
        started.socket.display()
    )
}

fn choose(
    arguments: &Args,
    configuration: &Configuration,
) -> Result<(Box<dyn Backend>, Option<String>), Failure> {
    let embedded = || -> Result<Box<dyn Backend>, Failure> {
        let named = arguments.iommu.as_deref().or(configuration.iommu.as_deref());
        let named = named.unwrap_or(ARCHITECTURES[0]);
        let unknown = || format!("the simulated machine has no {named}; it has {}", ARCHITECTURES.join(", "));
        let mut names = Vec::new();
        for (_, stem, kind) in Kind::ALL {
            let counts =
                arguments.simulate.iter().filter(|(asked, _)| *asked == kind).map(|(_, count)| count);
            names.extend((0..counts.sum()).map(|number: usize| (format!("{stem}{number}"), kind)));
        }
        let chosen: Vec<_> = names.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
        let devices = if chosen.is_empty() { &DEVICES[..] } else { &chosen };
        Ok(simulate(named, devices).ok_or_else(|| Failure::new(unknown()))??)
    };
    let platform = match (arguments.platform, configuration.backend) {
        (Some(platform), _) => platform,
        (None, BackendChoice::Auto) => Platform::Auto,
        (None, BackendChoice::Vfio) => Platform::Vfio,
        (None, BackendChoice::Embedded) => Platform::Embedded,
        (None, BackendChoice::Upstream) => {
            let above = portcullis_client::socket_path(configuration.upstream.as_deref());
            return Ok((Box::new(Upstream::connect(&above, None)?), None));
        }
    };
    match platform {
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
    Ok(Vfio::open(runtime())?)
}

/// Where it stands what was taken from which driver, until this host is started again.
fn runtime() -> &'static Path {
    Path::new(api::SOCKET).parent().unwrap_or(Path::new("/run"))
}

/// To the system's journal where its service manager started us, else to standard error.
fn log() {
    let filter = || EnvFilter::try_from_env("PORTCULLIS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    if std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(journal) = tracing_journald::layer()
    {
        // Fields under their own names: `journalctl REASON=not-mapped`.
        let journal = journal.with_field_prefix(None);
        let _ = tracing_subscriber::registry().with(journal.with_filter(filter())).try_init();
        return;
    }
    let colour =
        std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    let text =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(colour);
    let _ = tracing_subscriber::registry().with(text.with_filter(filter())).try_init();
}

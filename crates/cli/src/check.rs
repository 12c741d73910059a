//! `portcullis check`.

use std::{fs, path::Path};

use miette::{LabeledSpan, MietteDiagnostic, NamedSource, Report};
use portcullis_manager::configuration::{Configuration, Problem, from_smmuman, from_toml};
use serde::Serialize;

use crate::{
    exit::{Exit, Failure},
    output::{Output, count},
    service::configured,
};

/// Check a configuration without putting it in force: every problem with its place and what mends it.
///
/// Exit code 0: it can be put in force. 3: it cannot; every problem was shown.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file: TOML, or smmuman's options where it is called `*.smmu` or `@` stands before it.
    file: String,
}

/// What was found.
#[derive(Serialize)]
struct Verdict {
    file: String,
    ok: bool,
    clients: usize,
    allows: usize,
    problems: Vec<Found>,
    remarks: Vec<String>,
}

#[derive(Serialize)]
struct Found {
    file: String,
    line: usize,
    column: usize,
    message: String,
    help: Option<String>,
}

/// Reads a configuration file of either kind.
///
/// # Errors
/// The file cannot be read; or its text, and every problem in it.
pub(crate) fn load(name: &str) -> Result<(String, Result<Configuration, Vec<Problem>>), Failure> {
    let path = name.strip_prefix('@').unwrap_or(name);
    let text = fs::read_to_string(path).map_err(|error| Failure::new(format!("{path}: {error}")))?;
    let smmuman = name.starts_with('@') || Path::new(path).extension().is_some_and(|it| it == "smmu");
    let folder = Path::new(path).parent().unwrap_or(Path::new("."));
    let read = match smmuman {
        true => from_smmuman(path, &text),
        false => from_toml(path, &text, |named| fs::read_to_string(folder.join(named))),
    };
    let checked = read.and_then(|configuration| {
        configuration.check()?;
        let strangers = configured::strangers(&configuration);
        if strangers.is_empty() { Ok(configuration) } else { Err(strangers) }
    });
    Ok((text, checked))
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let (text, checked) = load(&arguments.file)?;
    let (configuration, problems) = match checked {
        Ok(configuration) => (configuration, Vec::new()),
        Err(problems) => (Configuration::default(), problems),
    };
    let found = problems.iter().map(|problem| Found {
        file: problem.file.clone(),
        line: problem.line,
        column: problem.column,
        message: problem.message.clone(),
        help: problem.help.clone(),
    });
    let verdict = Verdict {
        file: arguments.file.clone(),
        ok: problems.is_empty(),
        clients: configuration.clients.len(),
        allows: configuration.allows.len(),
        problems: found.collect(),
        remarks: configuration.remarks(),
    };
    output.show(&verdict, |verdict, out| {
        for problem in &problems {
            writeln!(out, "{}", picture(problem, &text))?;
        }
        for remark in &verdict.remarks {
            writeln!(out, "note: {remark}")?;
        }
        match problems.len() {
            0 => writeln!(
                out,
                "{}: ok, {}, {}",
                verdict.file,
                count(verdict.clients, "client"),
                count(verdict.allows, "static grant")
            ),
            problems => writeln!(out, "{}: {}", verdict.file, count(problems, "problem")),
        }
    })?;
    Ok(if verdict.ok { Exit::Done } else { Exit::Findings })
}

/// The line that a problem is about, with the place marked.
pub(crate) fn picture(problem: &Problem, text: &str) -> String {
    let mut diagnostic = MietteDiagnostic::new(problem.message.clone())
        .with_label(LabeledSpan::underline(problem.span.clone()));
    if let Some(help) = &problem.help {
        diagnostic = diagnostic.with_help(help.clone());
    }
    let report = Report::new(diagnostic).with_source_code(NamedSource::new(&problem.file, text.to_owned()));
    format!("{report:?}")
}

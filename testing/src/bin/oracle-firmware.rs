//! Judges the reading and writing of firmware tables: `cargo xtask oracle firmware`.
//!
//! The last line is `oracle firmware: N checks, 0 differences (iasl VERSION)`; the exit status is 1 where there is a
//! difference, a panic or a loop, and 2 where there is no iasl.
#![forbid(unsafe_code)]

use clap::Parser;
use portcullis_firmware::acpi::{self, Table};
use portcullis_testing::firmware::generate::{Generator, Range};
use portcullis_testing::firmware::{differences, iasl, reference, rules, tables};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Judges the reading and writing of firmware tables.
#[derive(Parser)]
struct Arguments {
    /// Where randomness starts
    #[arg(long, default_value_t = 0x9c1)]
    seed: u64,
    /// Changed tables to try
    #[arg(long, default_value_t = 1_000_000)]
    mutations: u64,
    /// Made-up tables to write and to have iasl read
    #[arg(long, default_value_t = 400)]
    tables: u64,
}

/// Longest time for one table, far above what the longest takes.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Judge {
    checks: u64,
    differences: u64,
    /// Tables whose topology was compared with the reference's.
    topologies: u64,
    /// Counts inputs, so that a watcher sees whether one of them never ends.
    progress: Arc<AtomicU64>,
}

impl Judge {
    fn difference(&mut self, name: &str, what: &str) {
        self.differences += 1;
        if self.differences <= 50 {
            println!("difference: {name}: {what}");
        }
    }

    fn check(&mut self, name: &str, result: Result<(), String>) {
        self.checks += 1;
        self.progress.fetch_add(1, Ordering::Relaxed);
        if let Err(what) = result {
            self.difference(name, &what);
        }
    }

    /// Checks the rules for any bytes at all.
    fn rules(&mut self, name: &str, bytes: &[u8]) {
        let result = catch_unwind(AssertUnwindSafe(|| rules::hold(bytes)))
            .unwrap_or_else(|_| Err("panics".into()))
            .map_err(|what| format!("{what}\n  bytes: {}", hex(bytes)));
        self.check(name, result);
    }

    /// Compares a table's fields with what iasl says of it. `clean`: iasl must have nothing to complain of.
    fn iasl(&mut self, name: &str, bytes: &[u8], clean: bool) {
        let theirs = match iasl::disassemble(bytes) {
            Ok(theirs) => theirs,
            Err(error) => return self.difference(name, &error),
        };
        let Some(blocks) = acpi::decode(bytes) else {
            return self.difference(name, "iasl reads it, we do not");
        };
        if clean {
            self.checks += 1;
            for complaint in &theirs.complaints {
                self.difference(name, &format!("iasl: {complaint}"));
            }
        }
        let comparison = differences::compare(bytes, &blocks, &theirs);
        self.checks += comparison.checks;
        for difference in comparison.differences {
            self.difference(name, &difference);
        }
        if let Some((checks, differences)) = reference::compare(bytes, &theirs) {
            self.checks += checks;
            self.topologies += 1;
            for difference in differences {
                self.difference(name, &difference);
            }
        }
    }

    /// A table that is as it should be comes back byte by byte.
    fn same_bytes(&mut self, name: &str, bytes: &[u8]) {
        let (table, _) = Table::read(bytes);
        let result = match table.map(|table| table.write()) {
            Some(Ok(written)) if written == bytes => Ok(()),
            Some(Ok(written)) => Err(format!("written differently:\n  {}\n  {}", hex(bytes), hex(&written))),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("not read".into()),
        };
        self.check(name, result);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Some(version) = iasl::version() else {
        println!("oracle firmware: iasl (Debian package acpica-tools) is not here");
        return ExitCode::from(2);
    };
    let mut judge = Judge::default();
    watch(Arc::clone(&judge.progress));
    let mut corpus: Vec<(String, Vec<u8>)> = Vec::new();

    match tables::real() {
        Some(real) => {
            for (name, bytes) in real {
                judge.iasl(&name, &bytes, false);
                judge.same_bytes(&name, &bytes);
                corpus.push((name, bytes));
            }
            println!("{} tables of real machines compared", corpus.len());
        }
        None => println!("skipped: the tables of real machines (shared/data/acpi) are not here"),
    }

    for signature in ["DMAR", "IVRS", "IORT", "VIOT", "RIMT"] {
        let name = format!("template {signature}");
        match iasl::template(signature) {
            Ok(Some(source)) => compiled(&mut judge, &name, &source, &mut corpus),
            Ok(None) => println!("skipped: iasl {version} has no template of {signature}"),
            Err(error) => judge.difference(&name, &error),
        }
    }
    for (name, source) in tables::sources() {
        compiled(&mut judge, &name, &source, &mut corpus);
    }

    let mut random = ChaCha8Rng::seed_from_u64(arguments.seed);
    for number in 0..arguments.tables {
        for range in [Range::KnownToIasl, Range::Everything] {
            let name = format!("made-up table {number} ({range:?})");
            let table = Generator::new(&mut random, range).table();
            let bytes = match table.write() {
                Ok(bytes) => bytes,
                Err(error) => {
                    judge.difference(&name, &error.to_string());
                    continue;
                }
            };
            let result = rules::read_back(&table, &bytes);
            judge.check(&name, result);
            if range == Range::KnownToIasl {
                judge.iasl(&name, &bytes, true);
            }
            if number < 20 {
                corpus.push((name, bytes));
            }
        }
    }
    println!("{} tables made up, written and read back; half of them read by iasl", 2 * arguments.tables);

    println!("{} topologies compared with the reference's", judge.topologies);

    std::panic::set_hook(Box::new(|_| {}));
    let mut cuts = 0u64;
    for (name, bytes) in &corpus {
        judge.rules(name, bytes);
        for cut in rules::truncations(bytes) {
            judge.rules(&format!("{name} cut to {} bytes", cut.len()), &cut);
            cuts += 1;
        }
    }
    println!("{cuts} truncations read");
    let bytes: Vec<Vec<u8>> = corpus.into_iter().map(|(_, bytes)| bytes).collect();
    for number in 0..arguments.mutations {
        let mutation = rules::mutation(&mut random, &bytes);
        judge.rules(&format!("mutation {number} (seed {})", arguments.seed), &mutation);
    }
    println!("{} mutations read", arguments.mutations);

    let Judge { checks, differences, .. } = judge;
    println!("oracle firmware: {checks} checks, {differences} differences (iasl {version})");
    if differences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A table that iasl has compiled.
fn compiled(judge: &mut Judge, name: &str, source: &str, corpus: &mut Vec<(String, Vec<u8>)>) {
    match iasl::compile(source) {
        Ok(bytes) => {
            judge.iasl(name, &bytes, true);
            judge.same_bytes(name, &bytes);
            corpus.push((name.to_owned(), bytes));
        }
        Err(error) => judge.difference(name, &error),
    }
}

/// Ends the program where one input takes longer than [`PATIENCE`].
fn watch(progress: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let mut last = 0;
        loop {
            std::thread::sleep(PATIENCE);
            let now = progress.load(Ordering::Relaxed);
            if now == last {
                println!(
                    "difference: what follows check {now} takes longer than {} seconds",
                    PATIENCE.as_secs()
                );
                println!("oracle firmware: stopped, 1 difference");
                std::process::exit(1);
            }
            last = now;
        }
    });
}

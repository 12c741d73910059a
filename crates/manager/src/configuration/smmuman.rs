//! smmuman's own options, as QNX documents them: one grammar for the command line and for `@file.smmu`, read in one pass.
//!
//! | option | here |
//! | --- | --- |
//! | `device SPEC [NAME]` | a name for a device: `pci:BUS:DEV.FUNC` (decimal; `pci:SEG:BUS:DEV.FUNC` too), `mmio:START,LEN`, or a StreamID |
//! | `allow NAME START,LEN[,s\|t]` | a static grant: `s` as a source of DMA (read), `t` as its target (write), both without |
//! | `reserved START,LEN` | addresses that no grant may use |
//! | `smmu TYPE` | the kind of unit; firmware or the unit itself says it here, so it must agree |
//! | `unit …` | a unit that firmware does not describe, by its registers |
//! | `debug N`, `foreground`, `safety`, `user …` | taken, and answered with a word on what does the same here |
//!
//! Addresses are hexadecimal and lengths decimal unless they say otherwise.

use portcullis_firmware::topology::{AddressRange, Architecture, Fact, ReservedKind, Source};
use portcullis_firmware::user::{How, UserRegion, UserUnit};
use portcullis_spec::{Access, PhysAddr};

use super::number::number;
use super::{Alias, Allow, Configuration, Place, Problem};

/// A word, and where it stands.
struct Word<'a> {
    text: &'a str,
    place: Place,
}

/// Reads smmuman's options from a file's text. What stands behind `#` on a line is a comment.
///
/// # Errors
/// Every problem that was found.
pub fn from_smmuman(file: &str, text: &str) -> Result<Configuration, Vec<Problem>> {
    let mut reader = Reader { file, configuration: Configuration::default(), problems: Vec::new() };
    let words = words(file, text);
    let mut rest = words.as_slice();
    while let Some((option, behind)) = rest.split_first() {
        rest = reader.option(option, behind);
    }
    if reader.problems.is_empty() { Ok(reader.configuration) } else { Err(reader.problems) }
}

fn words<'a>(file: &str, text: &'a str) -> Vec<Word<'a>> {
    let mut words = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let code = line.split('#').next().unwrap_or_default();
        let mut from = 0;
        for word in code.split_whitespace() {
            let at = from + code[from..].find(word).unwrap_or_default();
            from = at + word.len();
            words.push(Word { text: word, place: Place::of(file, text, offset + at..offset + from) });
        }
        offset += line.len();
    }
    words
}

const OPTIONS: [&str; 9] =
    ["allow", "debug", "device", "foreground", "reserved", "safety", "smmu", "unit", "user"];

struct Reader<'a> {
    file: &'a str,
    configuration: Configuration,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// Takes one option and its arguments; returns the words behind them.
    fn option<'w, 't>(&mut self, option: &Word<'t>, behind: &'w [Word<'t>]) -> &'w [Word<'t>] {
        // What is not an option's name is an argument, as far as the option takes any.
        let most = match option.text {
            "allow" | "device" | "reserved" => 2,
            "smmu" | "debug" => 1,
            "unit" | "user" => usize::MAX,
            _ => 0,
        };
        let arguments = behind.iter().take(most).take_while(|word| !OPTIONS.contains(&word.text)).count();
        let (arguments, rest) = behind.split_at(arguments);
        let texts: Vec<&str> = arguments.iter().map(|word| word.text).collect();
        match (option.text, texts.as_slice()) {
            ("device", [spec]) => self.device(&arguments[0], spec),
            ("device", [_, name]) => self.device(&arguments[0], name),
            ("allow", [name, range]) => self.allow(option, name, &arguments[1], range),
            ("reserved", [range]) => self.reserved(&arguments[0], range),
            ("reserved", [_, range]) => self.reserved(&arguments[1], range),
            ("smmu", [kind]) => self.kind(&arguments[0], kind),
            ("unit", [_, ..]) => self.unit(option, arguments),
            ("debug", [level]) if number(level, 10).is_ok() => {
                self.note(option, "`debug` has no effect: set PORTCULLIS_LOG=debug instead");
            }
            ("foreground", []) => self.note(option, "`foreground` is how the service always runs"),
            ("safety", _) => {
                self.note(
                    option,
                    "`safety` is how the service always behaves: an unknown condition blocks everything",
                );
            }
            ("user", [_, ..]) => {
                self.note(
                    option,
                    "`user` has no effect: the service drops all privileges that it can do without",
                );
            }
            (name, given) if OPTIONS.contains(&name) => {
                let problem = option.place.problem(
                    format!("`{name}` with {} arguments", given.len()),
                    usage(name).map(str::to_owned),
                );
                self.problems.push(problem);
            }
            (name, _) => {
                let help = format!("the options are {}", OPTIONS.join(", "));
                self.problems.push(option.place.problem(format!("`{name}` is no option"), help));
            }
        }
        rest
    }

    fn note(&mut self, option: &Word<'_>, note: &str) {
        let warning = format!("{}:{}: {note}", self.file, option.place.line);
        self.configuration.warnings.push(warning);
    }

    fn device(&mut self, spec: &Word<'_>, name: &str) {
        match device(spec.text) {
            Ok(device) => {
                self.configuration.aliases.push(Alias {
                    name: name.to_owned(),
                    device,
                    place: spec.place.clone(),
                });
            }
            Err(message) => {
                let help =
                    "write pci:BUS:DEV.FUNC, pci:SEG:BUS:DEV.FUNC, mmio:START,LEN, or a StreamID".to_owned();
                self.problems.push(spec.place.problem(message, help));
            }
        }
    }

    fn allow(&mut self, option: &Word<'_>, name: &str, at: &Word<'_>, range: &str) {
        let (range, access) = match range.rsplit_once(',') {
            Some((range, "s")) => (range, Access::READ),
            Some((range, "t")) => (range, Access::WRITE),
            _ => (range, Access::READ_WRITE),
        };
        match extent(range) {
            Ok((first, length)) => self.configuration.allows.push(Allow {
                device: name.to_owned(),
                first,
                length,
                access,
                place: option.place.clone(),
            }),
            Err(message) => {
                self.problems.push(at.place.problem(message, usage("allow").map(str::to_owned)));
            }
        }
    }

    fn reserved(&mut self, at: &Word<'_>, range: &str) {
        let source = self.source(at);
        match extent(range) {
            Ok((first, length)) => self.configuration.firmware.reserved.push(UserRegion {
                range: Fact::new(AddressRange { first, last: first + (length - 1) }, source.clone()),
                how: None,
                kind: Some(Fact::new(ReservedKind::NoMap, source.clone())),
                access: None,
                devices: Vec::new(),
                source,
            }),
            Err(message) => {
                self.problems.push(at.place.problem(message, usage("reserved").map(str::to_owned)));
            }
        }
    }

    fn kind(&mut self, at: &Word<'_>, kind: &str) {
        if architecture(kind).is_none() {
            let help = "use arm, vtd, amd-vi, riscv or vdev".to_owned();
            self.problems.push(at.place.problem(format!("`{kind}` is no kind of unit"), help));
        }
        self.note(at, "`smmu` is not needed: units say themselves what they are");
    }

    /// `unit NAME mmio:START,LEN [KIND]`.
    fn unit(&mut self, option: &Word<'_>, arguments: &[Word<'_>]) {
        let source = self.source(option);
        let mut unit = UserUnit {
            name: Fact::new(arguments[0].text.to_owned(), source.clone()),
            // It says where the unit is, not that nothing else is true of it.
            how: Some(How::Merge),
            architecture: None,
            registers: None,
            size: None,
            segment: None,
            function: None,
            proximity: None,
            source: source.clone(),
        };
        for argument in &arguments[1..] {
            let problem = match (argument.text.strip_prefix("mmio:"), architecture(argument.text)) {
                (Some(range), _) => match extent(range) {
                    Ok((first, length)) => {
                        unit.registers = Some(Fact::new(PhysAddr(first), source.clone()));
                        unit.size = Some(Fact::new(length, source.clone()));
                        None
                    }
                    Err(message) => Some(message),
                },
                (None, Some(kind)) => {
                    unit.architecture = Some(Fact::new(kind, source.clone()));
                    None
                }
                (None, None) => Some(format!("`{}` says nothing of a unit", argument.text)),
            };
            if let Some(message) = problem {
                self.problems.push(argument.place.problem(message, usage("unit").map(str::to_owned)));
            }
        }
        self.configuration.firmware.units.push(unit);
    }

    fn source(&self, at: &Word<'_>) -> Source {
        Source::User {
            file: self.file.into(),
            line: u32::try_from(at.place.line).unwrap_or(u32::MAX),
            column: u32::try_from(at.place.column).unwrap_or(u32::MAX),
        }
    }
}

fn usage(option: &str) -> Option<&'static str> {
    Some(match option {
        "allow" => "write allow NAME START,LEN[,s|t], such as: allow dma 0x4000,4096",
        "device" => "write device SPEC [NAME], such as: device pci:0:18.0 gfx",
        "reserved" => "write reserved START,LEN",
        "smmu" => "write smmu KIND",
        "unit" => "write unit NAME mmio:START,LEN [KIND]",
        "debug" => "write debug 1 or debug 2",
        _ => return None,
    })
}

fn architecture(word: &str) -> Option<Architecture> {
    Some(match word {
        "vtd" | "intel" => Architecture::Vtd,
        "amd-vi" | "amd" => Architecture::AmdVi,
        "arm" | "smmu-v3" => Architecture::SmmuV3,
        "smmu-v2" | "mmu500" => Architecture::SmmuV2,
        "riscv" => Architecture::Riscv,
        "vdev" | "virtio" => Architecture::Virtio,
        _ => return None,
    })
}

/// `START,LEN`: hexadecimal and decimal.
fn extent(text: &str) -> Result<(u64, u64), String> {
    let (first, length) = text.split_once(',').ok_or_else(|| format!("`{text}` is not START,LEN"))?;
    let first = number(first, 16).map_err(|error| error.to_string())?;
    let length = number(length, 10).map_err(|error| error.to_string())?;
    match length.checked_sub(1).and_then(|rest| first.checked_add(rest)) {
        Some(_) => Ok((first, length)),
        None => Err(format!("`{text}` is empty, or wraps around")),
    }
}

/// The name that the inventory has for a device specification.
fn device(spec: &str) -> Result<String, String> {
    if let Some(function) = spec.strip_prefix("pci:") {
        return pci(function).ok_or_else(|| format!("`{spec}` is no PCI function"));
    }
    if let Some(range) = spec.strip_prefix("mmio:") {
        let start = range.split(',').next().unwrap_or_default();
        let start = number(start, 16).map_err(|error| error.to_string())?;
        return Ok(format!("mmio:{start:#x}"));
    }
    match number(spec, 10) {
        Ok(stream) => Ok(format!("stream:{stream}")),
        Err(_) => Err(format!("`{spec}` is no device")),
    }
}

/// `[SEG:]BUS:DEV.FUNC`, all decimal.
fn pci(text: &str) -> Option<String> {
    let (place, function) = text.rsplit_once('.')?;
    let numbers: Option<Vec<u64>> = place.split(':').map(|part| number(part, 10).ok()).collect();
    let (segment, bus, device) = match numbers?.as_slice() {
        [bus, device] => (0, *bus, *device),
        [segment, bus, device] => (*segment, *bus, *device),
        _ => return None,
    };
    let function = number(function, 10).ok()?;
    let fits = segment <= 0xffff && bus <= 0xff && device <= 31 && function <= 7;
    fits.then(|| format!("{segment:04x}:{bus:02x}:{device:02x}.{function}"))
}

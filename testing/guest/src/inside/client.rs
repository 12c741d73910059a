//! An unprivileged client of the service, in a process of its own: it does what it is told on standard input, one line at a time,
//! and answers each line with one of its own: `ok …`, or `no NAME MESSAGE`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use portcullis_client::api::{MapRequest, Range};
use portcullis_client::device::{Device, SharedMemory};
use portcullis_client::{Client, Error};
use portcullis_guest::content;

use crate::edu::Edu;
use crate::nvme::{self, Nvme};

/// A client process, as the case that leads it sees it.
pub(crate) struct Remote {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// A refusal: its name and its words.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) name: String,
    pub(crate) message: String,
}

impl Remote {
    /// Starts a client as this user, in this group, connected to the service.
    pub(crate) fn start(user: u32, group: u32) -> Result<Self> {
        let mut child = Command::new("/init")
            .arg("client")
            .uid(user)
            .gid(group)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a client")?;
        let input = child.stdin.take().context("its input")?;
        let output = BufReader::new(child.stdout.take().context("its output")?);
        let mut remote = Self { child, input, output };
        remote.ask("connect")?;
        Ok(remote)
    }

    /// Has it do something that should succeed; what it answered.
    pub(crate) fn ask(&mut self, command: &str) -> Result<String> {
        match self.tell(command)? {
            Ok(answer) => Ok(answer),
            Err(refused) => bail!("{command}: {} {}", refused.name, refused.message),
        }
    }

    /// Has it do something that should be refused.
    pub(crate) fn refused(&mut self, command: &str) -> Result<Refused> {
        match self.tell(command)? {
            Ok(answer) => bail!("{command}: not refused, but {answer:?}"),
            Err(refused) => {
                println!("{command}: {} {}", refused.name, refused.message);
                Ok(refused)
            }
        }
    }

    /// Has it do something, however that ends.
    pub(crate) fn tell(&mut self, command: &str) -> Result<Result<String, Refused>> {
        writeln!(self.input, "{command}")?;
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? != 0, "the client ended at {command}");
        let line = line.trim_end();
        match line.split_once(' ').unwrap_or((line, "")) {
            ("ok", answer) => Ok(Ok(answer.to_owned())),
            ("no", rest) => {
                let (name, message) = rest.split_once(' ').unwrap_or((rest, ""));
                Ok(Err(Refused { name: name.to_owned(), message: message.to_owned() }))
            }
            _ => bail!("the client said {line:?}"),
        }
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The client's side.
pub(crate) fn run() -> Result<()> {
    let mut client = Local::default();
    for line in std::io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        match client.obey(&words) {
            Ok(answer) => println!("ok {answer}"),
            Err(error) => {
                let refused = error.downcast_ref::<Error>();
                let name = refused.and_then(Error::refusal).unwrap_or("Failed");
                println!("no {name} {}", format!("{error:#}").replace('\n', " "));
            }
        }
    }
    Ok(())
}

/// What a client has.
#[derive(Default)]
struct Local {
    service: Option<Client>,
    devices: BTreeMap<String, Device>,
    /// By the service's numbers.
    memories: BTreeMap<u64, SharedMemory>,
    edu: Option<Edu>,
    disk: Option<Nvme>,
    traffic: Option<Traffic>,
}

/// A disk that is read without a pause.
struct Traffic {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: thread::JoinHandle<(Nvme, Result<()>)>,
}

impl Local {
    fn obey(&mut self, words: &[&str]) -> Result<String> {
        match words {
            ["connect"] => {
                self.service = Some(Client::connect(None)?);
                Ok(String::new())
            }
            ["resume"] => {
                let mut service = Client::connect(None)?;
                let resumed = service.resume(None)?;
                self.service = Some(service);
                Ok(format!("{} {:?}", resumed.devices.join(" "), resumed.spaces))
            }
            ["claim", device] => {
                let claimed = self.service()?.claim(device)?;
                let mut names = Vec::new();
                for (name, descriptor) in claimed {
                    names.push(name.clone());
                    self.devices.extend(descriptor.map(|descriptor| (name, Device::from(descriptor))));
                }
                Ok(names.join(" "))
            }
            ["release", device] => Ok(self.service()?.release(device, false)?.join(" ")),
            ["space"] => Ok(self.service()?.create_space()?.to_string()),
            ["attach", space, device] => {
                self.service()?.attach(space.parse()?, device, None)?;
                Ok(String::new())
            }
            ["memory", bytes] => {
                let memory = SharedMemory::new("client", bytes.parse()?)?;
                let known = self.service()?.add_memory(&memory)?;
                self.memories.insert(known.memory, memory);
                Ok(known.memory.to_string())
            }
            ["offer", path] => {
                let file = std::fs::File::open(path)?;
                Ok(self.service()?.add_memory(&file)?.memory.to_string())
            }
            ["map", space, memory, offset, iova, length, access] => {
                let request = MapRequest {
                    offset: number(offset)?,
                    iova: Some(number(iova)?),
                    length: number(length)?,
                    access: access.parse().map_err(anyhow::Error::msg)?,
                };
                let memory = if *memory == "physical" { None } else { Some(memory.parse()?) };
                let granted = self.service()?.map(space.parse()?, memory, vec![request])?;
                Ok(granted.first().map_or_else(String::new, |grant| format!("{:#x}", grant.iova)))
            }
            ["unmap", space, iova, length] => {
                let range = Range { iova: number(iova)?, length: number(length)? };
                self.service()?.unmap(space.parse()?, vec![range])?;
                Ok(String::new())
            }
            ["put", memory, offset, text] => {
                self.memory(memory)?.write_bytes(number(offset)?, text.as_bytes())?;
                Ok(String::new())
            }
            ["get", memory, offset, count] => {
                let mut bytes = vec![0; count.parse()?];
                self.memory(memory)?.read_bytes(number(offset)?, &mut bytes)?;
                Ok(String::from_utf8_lossy(&bytes).replace('\0', "."))
            }
            ["edu", "start", name] => {
                let device = self.devices.remove(*name).context("it was not claimed")?;
                self.edu = Some(Edu::start(device)?);
                Ok(String::new())
            }
            ["edu", "read", address] => {
                self.edu.as_ref().context("no edu")?.read_memory(number(address)?, 16)?;
                Ok(String::new())
            }
            ["edu", "write", address] => {
                self.edu.as_ref().context("no edu")?.write_memory(number(address)?, 16)?;
                Ok(String::new())
            }
            ["edu", "enable"] => {
                self.edu.as_ref().context("no edu")?.device.enable()?;
                Ok(String::new())
            }
            ["edu", "stop"] => {
                self.edu = None;
                Ok(String::new())
            }
            ["disk", rest @ ..] => self.disk(rest),
            _ => bail!("{words:?} is no command"),
        }
    }

    fn disk(&mut self, words: &[&str]) -> Result<String> {
        match words {
            ["start", name, memory, iova] => {
                let device = self.devices.remove(*name).context("it was not claimed")?;
                let memory = self.memories.remove(&memory.parse()?).context("no such memory")?;
                let disk = Nvme::start(device, memory, number(iova)?)?;
                let about = format!("{} {} {}", disk.blocks, disk.block, disk.name);
                self.disk = Some(disk);
                Ok(about)
            }
            ["registers", name] => {
                // NVM Express Base 1.4, 3.1.5 and 3.1.6.
                let device = self.devices.get(*name).context("it was not claimed")?;
                device.enable()?;
                let registers = device.registers(0)?;
                let (cc, csts): (u32, u32) = (registers.read(0x14)?, registers.read(0x1c)?);
                Ok(format!("CC {cc:#x}, CSTS {csts:#x}"))
            }
            ["stop"] => {
                self.disk = None;
                Ok(String::new())
            }
            ["sum", first, count] => {
                let (first, count): (u64, u64) = (first.parse()?, count.parse()?);
                let disk = self.disk.as_mut().context("no disk")?;
                let mut blocks = Vec::new();
                for first in (first..first + count).step_by(STEP) {
                    let mut bytes = [0; nvme::MOST];
                    disk.read(first, &mut bytes)?;
                    blocks.extend_from_slice(bytes.as_chunks().0);
                }
                Ok(content::sum(blocks))
            }
            ["change", first, count] => {
                let (first, count): (u64, u64) = (first.parse()?, count.parse()?);
                let disk = self.disk.as_mut().context("no disk")?;
                for first in (first..first + count).step_by(STEP) {
                    let blocks: Vec<u8> = (first..first + STEP as u64).flat_map(content::changed).collect();
                    disk.write(first, &blocks)?;
                }
                Ok(String::new())
            }
            ["read-to", address] => {
                let answer =
                    self.disk.as_mut().context("no disk")?.read_to(0, content::BLOCK, number(address)?);
                Ok(format!("{answer:?}"))
            }
            ["traffic", "start"] => {
                let mut disk = self.disk.take().context("no disk")?;
                let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
                let (stopped, count) = (stop.clone(), done.clone());
                let thread = thread::spawn(move || {
                    let mut work = || -> Result<()> {
                        while !stopped.load(Ordering::Relaxed) {
                            let mut bytes = [0; nvme::MOST];
                            disk.read(0, &mut bytes)?;
                            ensure!(
                                bytes[..content::BLOCK] == content::original(0),
                                "the disk read something else"
                            );
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(())
                    };
                    let outcome = work();
                    (disk, outcome)
                });
                self.traffic = Some(Traffic { stop, done, thread });
                Ok(String::new())
            }
            ["traffic", "count"] => {
                let traffic = self.traffic.as_ref().context("no traffic")?;
                Ok(traffic.done.load(Ordering::Relaxed).to_string())
            }
            ["traffic", "stop"] => {
                let traffic = self.traffic.take().context("no traffic")?;
                traffic.stop.store(true, Ordering::Relaxed);
                let (disk, outcome) =
                    traffic.thread.join().map_err(|_| anyhow::anyhow!("the traffic panicked"))?;
                self.disk = Some(disk);
                outcome.map(|()| String::new())
            }
            _ => bail!("{words:?} is no command of the disk"),
        }
    }

    fn service(&mut self) -> Result<&mut Client> {
        self.service.as_mut().context("not connected")
    }

    fn memory(&self, number: &str) -> Result<&SharedMemory> {
        self.memories.get(&number.parse()?).context("no such memory")
    }
}

/// Blocks of one transfer.
const STEP: usize = nvme::MOST / content::BLOCK;

/// Decimal, or hexadecimal behind `0x`.
fn number(text: &str) -> Result<u64> {
    Ok(match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16)?,
        None => text.parse()?,
    })
}

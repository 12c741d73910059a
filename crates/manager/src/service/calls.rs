//! One call: from its text to its answer.

use std::{borrow::Cow, os::fd::OwnedFd, sync::Arc};

use portcullis_client::api::{self, INTERFACE};
use portcullis_spec::{Iova, Pasid};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Service, Session,
    memory::{BadMemory, Sealed},
    message,
};
use crate::{
    backend::MemoryId,
    core::{Asked, ClientId, Granted, MapFrom, Refusal},
    inventory::DeviceId,
};

/// Mappings or ranges in one call.
pub(super) const BATCH_LIMIT: usize = 1 << 14;

#[derive(Deserialize)]
struct Call<'a> {
    /// Escapes in it are spelled out.
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    parameters: Option<&'a serde_json::value::RawValue>,
    #[serde(default)]
    more: bool,
    #[serde(default)]
    oneway: bool,
    #[serde(default)]
    upgrade: bool,
}

/// What a connection does after a call.
pub(super) enum Then {
    /// Waits for the next; the answer was written.
    Next,
    /// As `Next`, with descriptors beside the answer.
    Send(Vec<OwnedFd>),
    /// Tells what happens until it is closed.
    Follow(api::Follow),
    /// Maps in steps, telling progress.
    Steps(Box<Steps>),
    /// Closes: what came is not varlink, and why.
    Close(String),
}

/// A long mapping.
pub(super) struct Steps {
    pub(super) space: u64,
    pub(super) from: MapFrom,
    pub(super) asked: Vec<Asked>,
    pub(super) more: bool,
    pub(super) oneway: bool,
}

/// Why a call fails.
#[derive(Debug)]
pub(super) enum Failure {
    Refused(Refusal),
    Memory(BadMemory),
    Limit(String),
    /// What came is no call at all.
    NoCall(String),
    /// Name of the parameter, or what is wrong with the parameters.
    Parameter(String),
    NoMethod(String),
    NoInterface(String),
    NeedsMore,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<BadMemory> for Failure {
    fn from(bad: BadMemory) -> Self {
        Self::Memory(bad)
    }
}

#[derive(Serialize)]
struct Said<'a, P> {
    parameters: &'a P,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    continues: bool,
}

/// Writes a reply.
pub(super) fn say<P: Serialize>(out: &mut Vec<u8>, parameters: &P, continues: bool) {
    let begin = out.len();
    if serde_json::to_writer(&mut *out, &Said { parameters, continues }).is_err() {
        // Serializing plain structures into memory does not fail; were it to, silence would be worse than this.
        out.truncate(begin);
        out.extend_from_slice(
            br#"{"error":"org.portcullis.Manager.System","parameters":{"message":"no answer"}}"#,
        );
    }
    out.push(0);
}

/// Writes an error.
pub(super) fn complain(out: &mut Vec<u8>, failure: &Failure) {
    let own = |name: &str, message: String| {
        (format!("{INTERFACE}.{name}"), serde_json::json!({ "message": message }))
    };
    let (error, parameters) = match failure {
        Failure::Refused(refusal) => own(refusal.name(), refusal.to_string()),
        Failure::Memory(bad) => own("BadMemory", bad.to_string()),
        Failure::Limit(message) => own("Limit", message.clone()),
        Failure::NoCall(message) => own("BadCall", message.clone()),
        Failure::Parameter(parameter) => {
            ("org.varlink.service.InvalidParameter".into(), serde_json::json!({ "parameter": parameter }))
        }
        Failure::NoMethod(method) => {
            ("org.varlink.service.MethodNotFound".into(), serde_json::json!({ "method": method }))
        }
        Failure::NoInterface(interface) => {
            ("org.varlink.service.InterfaceNotFound".into(), serde_json::json!({ "interface": interface }))
        }
        Failure::NeedsMore => ("org.varlink.service.ExpectedMore".into(), serde_json::json!({})),
    };
    out.extend_from_slice(
        serde_json::json!({ "error": error, "parameters": parameters }).to_string().as_bytes(),
    );
    out.push(0);
}

fn read<P: DeserializeOwned>(text: &str) -> Result<P, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::Parameter(error.to_string()))
}

impl Service {
    /// Answers one message, into `out`.
    pub(super) fn answer(
        &self,
        session: &mut Session,
        text: &[u8],
        descriptors: Vec<OwnedFd>,
        out: &mut Vec<u8>,
    ) -> Then {
        self.calls.set(self.calls.get() + 1);
        let call = match serde_json::from_slice::<Call<'_>>(text) {
            Ok(call) => call,
            Err(error) => return Then::Close(error.to_string()),
        };
        if call.upgrade {
            complain(out, &Failure::Parameter("upgrade".into()));
            return Then::Next;
        }
        let begin = out.len();
        let then = self.dispatch(session, &call, descriptors, out).unwrap_or_else(|failure| {
            out.truncate(begin);
            complain(out, &failure);
            Then::Next
        });
        if call.oneway && !matches!(then, Then::Steps(_)) {
            out.truncate(begin);
            return Then::Next;
        }
        then
    }

    fn dispatch(
        &self,
        session: &mut Session,
        call: &Call<'_>,
        descriptors: Vec<OwnedFd>,
        out: &mut Vec<u8>,
    ) -> Result<Then, Failure> {
        let parameters = call.parameters.map_or("{}", serde_json::value::RawValue::get);
        let Some((interface, method)) = call.method.rsplit_once('.') else {
            return Err(Failure::NoMethod(call.method.clone().into_owned()));
        };
        match interface {
            INTERFACE => {}
            "org.varlink.service" => return introspection(method, parameters, out),
            other => return Err(Failure::NoInterface(other.into())),
        }
        match method {
            "Map" => return self.map(session, call, parameters, out),
            "Unmap" => self.unmap(session, parameters, out)?,
            "Claim" => return self.claim(session, parameters, out),
            "Quiesce" => return self.quiesce(session, parameters, out),
            "Follow" if !call.more => return Err(Failure::NeedsMore),
            "Follow" => return Ok(Then::Follow(read(parameters)?)),
            "GetStatus" => {
                read::<api::Nothing>(parameters)?;
                say(out, &self.status(session), false);
            }
            "ListUnits" => {
                read::<api::Nothing>(parameters)?;
                say(out, &self.units(), false);
            }
            "ListDevices" => say(out, &self.devices(&read(parameters)?)?, false),
            "ListGroups" => {
                read::<api::Nothing>(parameters)?;
                say(out, &self.groups(), false);
            }
            "ListClients" => {
                read::<api::Nothing>(parameters)?;
                say(out, &self.clients(), false);
            }
            "ListGrants" => say(out, &self.grants(session, &read(parameters)?)?, false),
            "ListReserved" => say(out, &self.reserved(&read(parameters)?)?, false),
            "ListFaults" => say(out, &self.faults(session, &read(parameters)?)?, false),
            "ListEvents" => say(out, &self.events(session, &read(parameters)?)?, false),
            "GetStatistics" => {
                read::<api::Nothing>(parameters)?;
                say(out, &self.statistics(), false);
            }
            "AddMemory" => {
                read::<api::Nothing>(parameters)?;
                let sealed = Sealed::of(descriptors)?;
                let client = self.client(session)?;
                let (length, writable) = (sealed.length, sealed.writable);
                let memory = self.core().add_memory(client, Arc::new(sealed.file), length, writable)?;
                say(out, &api::Memory { memory: memory.0, length, writable }, false);
            }
            "SetInterrupts" => {
                let asked: api::Named = read(parameters)?;
                let client = self.client(session)?;
                let vectors = self.core().set_interrupts(client, &asked.device, descriptors)?;
                say(out, &api::Vectors { vectors }, false);
            }
            _ => self.change(session, method, parameters, out)?,
        }
        Ok(Then::Next)
    }

    /// Methods that change something, rarely.
    fn change(
        &self,
        session: &mut Session,
        method: &str,
        parameters: &str,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match method {
            "Introduce" => {
                let asked: api::Introduce = read(parameters)?;
                self.introduce(session, &asked.client)?;
                say(out, &api::Nothing {}, false);
            }
            "Resume" => {
                let asked: api::Resume = read(parameters)?;
                say(out, &self.resume(session, asked.client)?, false);
            }
            "Release" => {
                let asked: api::Release = read(parameters)?;
                let force = asked.force == Some(true);
                if force {
                    self.operator(session, "take others' devices")?;
                }
                let client = if force { None } else { Some(self.client(session)?) };
                let devices = self.core().release(client, &asked.device)?;
                say(out, &api::Names { devices: self.names(&devices) }, false);
            }
            "CreateSpace" => {
                read::<api::Nothing>(parameters)?;
                let client = self.client(session)?;
                let space = self.core().create_space(client)?;
                say(out, &api::SpaceNumber { space }, false);
            }
            "DestroySpace" => {
                let asked: api::SpaceNumber = read(parameters)?;
                let client = self.client(session)?;
                self.core().destroy_space(client, asked.space)?;
                say(out, &api::Nothing {}, false);
            }
            "Attach" => {
                let asked: api::Attach = read(parameters)?;
                let client = self.client(session)?;
                let pasid = pasid(asked.pasid)?;
                let joined = self.core().attach(client, asked.space, &asked.device, pasid)?;
                let devices = self.names(&joined.devices);
                say(out, &api::Attached { devices, replayed: joined.replayed }, false);
            }
            "Detach" => {
                let asked: api::Attach = read(parameters)?;
                let client = self.client(session)?;
                let pasid = pasid(asked.pasid)?;
                let devices = self.core().detach(client, asked.space, &asked.device, pasid)?;
                say(out, &api::Names { devices: self.names(&devices) }, false);
            }
            "RemoveMemory" => {
                let asked: api::MemoryNumber = read(parameters)?;
                let client = self.client(session)?;
                self.core().remove_memory(client, MemoryId(asked.memory))?;
                say(out, &api::Nothing {}, false);
            }
            "Allow" => {
                let asked: api::Allow = read(parameters)?;
                self.operator(session, "make static grants")?;
                let access = message::asked_access(asked.access);
                let made = self.core().allow(&asked.device, asked.first, asked.length, access)?;
                let numbers: Vec<u64> = made.iter().map(|g| g.grant).collect();
                let core = self.core();
                let of_mine = core.grants(None).filter(|view| numbers.contains(&view.grant));
                let grants = of_mine.map(|view| message::grant(&core, &view)).collect();
                say(out, &api::Grants { grants, interrupts: Vec::new(), next: None }, false);
            }
            "Revoke" => {
                let asked: api::Revoke = read(parameters)?;
                self.operator(session, "revoke others' grants")?;
                let removed = self.core().revoke(asked.grant)?;
                say(out, &api::Removed { mappings: removed.mappings, bytes: removed.bytes }, false);
            }
            other => return Err(Failure::NoMethod(format!("{INTERFACE}.{other}"))),
        }
        Ok(())
    }

    fn claim(&self, session: &mut Session, parameters: &str, out: &mut Vec<u8>) -> Result<Then, Failure> {
        let asked: api::Named = read(parameters)?;
        let client = self.client(session)?;
        let claimed = self.core().claim(client, &asked.device)?;
        self.hand_out(client, &claimed, out)
    }

    fn quiesce(&self, session: &mut Session, parameters: &str, out: &mut Vec<u8>) -> Result<Then, Failure> {
        let asked: api::Named = read(parameters)?;
        let client = self.client(session)?;
        let stopped = self.core().quiesce(client, &asked.device)?;
        self.hand_out(client, &stopped, out)
    }

    /// Answers with devices and their descriptors.
    fn hand_out(&self, client: ClientId, ids: &[DeviceId], out: &mut Vec<u8>) -> Result<Then, Failure> {
        let mut core = self.core();
        let mut descriptors = Vec::new();
        let mut devices = Vec::new();
        for &id in ids {
            let name = core.device(id).map_or_else(String::new, |d| d.device.name.clone());
            // No message takes more; a client that needs them claims fewer devices at a time.
            let room = descriptors.len() < api::DESCRIPTOR_LIMIT;
            let descriptor = if room { core.device_descriptor(client, id)? } else { None };
            devices.push(api::ClaimedDevice {
                name,
                descriptor: descriptor.map(|descriptor| {
                    descriptors.push(descriptor);
                    descriptors.len() as u64 - 1
                }),
            });
        }
        say(out, &api::Claimed { devices }, false);
        Ok(if descriptors.is_empty() { Then::Next } else { Then::Send(descriptors) })
    }

    fn map(
        &self,
        session: &mut Session,
        call: &Call<'_>,
        parameters: &str,
        out: &mut Vec<u8>,
    ) -> Result<Then, Failure> {
        let asked: api::Map = read(parameters)?;
        within_batch(asked.mappings.len())?;
        let client = self.client(session)?;
        let from = asked.memory.map_or(MapFrom::Physical, |memory| MapFrom::Memory(MemoryId(memory)));
        let mappings: Vec<Asked> = asked
            .mappings
            .iter()
            .map(|one| Asked {
                offset: one.offset,
                iova: one.iova.map(Iova),
                length: one.length,
                access: message::asked_access(one.access),
            })
            .collect();
        let mut core = self.core();
        let bytes = mappings.iter().fold(0u64, |sum, one| sum.saturating_add(one.length));
        if core.backend().capabilities().pins_memory && bytes > super::connection::STEP {
            let (more, oneway) = (call.more, call.oneway);
            return Ok(Then::Steps(Box::new(Steps {
                space: asked.space,
                from,
                asked: mappings,
                more,
                oneway,
            })));
        }
        let granted = core.map(client, asked.space, from, &mappings)?;
        say(out, &map_reply(&granted), false);
        Ok(Then::Next)
    }

    fn unmap(&self, session: &mut Session, parameters: &str, out: &mut Vec<u8>) -> Result<(), Failure> {
        let asked: api::Unmap = read(parameters)?;
        within_batch(asked.ranges.len())?;
        let client = self.client(session)?;
        let ranges: Vec<(Iova, u64)> = asked.ranges.iter().map(|r| (Iova(r.iova), r.length)).collect();
        let removed = self.core().unmap(client, asked.space, &ranges)?;
        say(out, &api::Removed { mappings: removed.mappings, bytes: removed.bytes }, false);
        Ok(())
    }

    fn operator(&self, session: &Session, what: &str) -> Result<(), Refusal> {
        if session.operator {
            return Ok(());
        }
        Err(Refusal::NotPermitted {
            client: session.policy.name.clone(),
            what: what.into(),
            why: "you are not an operator".into(),
        })
    }

    fn names(&self, devices: &[DeviceId]) -> Vec<String> {
        let core = self.core();
        devices.iter().filter_map(|&id| core.device(id)).map(|d| d.device.name.clone()).collect()
    }
}

pub(super) fn map_reply(granted: &[Granted]) -> api::MapReply {
    let one =
        |g: &Granted| api::Granted { grant: g.grant, iova: g.iova.0, access: message::access(g.access) };
    api::MapReply { granted: granted.iter().map(one).collect(), done: None }
}

fn within_batch(count: usize) -> Result<(), Failure> {
    if count > BATCH_LIMIT {
        return Err(Failure::Limit(format!("{count} ranges in one call; at most {BATCH_LIMIT}")));
    }
    Ok(())
}

fn pasid(value: Option<u32>) -> Result<Option<Pasid>, Failure> {
    value.map(|value| Pasid::new(value).ok_or_else(|| Failure::Parameter("pasid".into()))).transpose()
}

/// `org.varlink.service`, which every varlink service answers.
fn introspection(method: &str, parameters: &str, out: &mut Vec<u8>) -> Result<Then, Failure> {
    match method {
        "GetInfo" => {
            let info = serde_json::json!({
                "vendor": "Portcullis",
                "product": "Portcullis manager",
                "version": env!("CARGO_PKG_VERSION"),
                "url": "",
                "interfaces": ["org.varlink.service", INTERFACE],
            });
            say(out, &info, false);
        }
        "GetInterfaceDescription" => {
            #[derive(Deserialize)]
            struct Asked {
                interface: String,
            }
            let description = match read::<Asked>(parameters)?.interface.as_str() {
                INTERFACE => api::DESCRIPTION,
                "org.varlink.service" => SERVICE_DESCRIPTION,
                other => return Err(Failure::NoInterface(other.into())),
            };
            say(out, &serde_json::json!({ "description": description }), false);
        }
        other => return Err(Failure::NoMethod(format!("org.varlink.service.{other}"))),
    }
    Ok(Then::Next)
}

/// As the varlink specification prints it.
const SERVICE_DESCRIPTION: &str = "\
# The Varlink Service Interface is provided by every varlink service. It
# describes the service and the interfaces it implements.
interface org.varlink.service

# Get a list of all the interfaces a service provides and information
# about the implementation.
method GetInfo() -> (
  vendor: string,
  product: string,
  version: string,
  url: string,
  interfaces: []string
)

# Get the description of an interface that is implemented by this service.
method GetInterfaceDescription(interface: string) -> (description: string)

# The requested interface was not found.
error InterfaceNotFound (interface: string)

# The requested method was not found
error MethodNotFound (method: string)

# The interface defines the requested method, but the service does not
# implement it.
error MethodNotImplemented (method: string)

# One of the passed parameters is invalid.
error InvalidParameter (parameter: string)

# Client is denied access
error PermissionDenied ()

# Method is expected to be called with 'more' set to true, but wasn't
error ExpectedMore ()
";

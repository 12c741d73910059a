//! What a unit's capability registers say, in words.

use portcullis_spec::{
    amdvi::feature::ExtendedFeature,
    vtd::registers::{Cap, Ecap},
};
use serde::Serialize;

use crate::host::UnitRegisters;

/// One capability.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Capability {
    /// The specification's name of the field.
    pub field: &'static str,
    /// Its value.
    pub value: u64,
    /// What that means.
    pub meaning: String,
}

/// The capabilities that matter for protection and sharing.
pub(super) fn decode(registers: UnitRegisters) -> Vec<Capability> {
    match registers {
        UnitRegisters::Vtd { cap, ecap, .. } => vtd(Cap::from_bits(cap), Ecap::from_bits(ecap)),
        UnitRegisters::AmdVi { features, .. } => amd(ExtendedFeature::from_bits(features)),
        UnitRegisters::Unknown => Vec::new(),
    }
}

fn list(entries: Vec<(&'static str, u64, String)>) -> Vec<Capability> {
    entries.into_iter().map(|(field, value, meaning)| Capability { field, value, meaning }).collect()
}

fn has(present: bool, what: &str) -> String {
    if present { what.to_owned() } else { format!("no {what}") }
}

fn vtd(cap: Cap, ecap: Ecap) -> Vec<Capability> {
    let levels: Vec<String> =
        [3u8, 4, 5].iter().filter(|levels| cap.supports_levels(**levels)).map(u8::to_string).collect();
    let large = match cap.sslps() & 3 {
        0 => "4 KiB pages only",
        1 => "pages of 4 KiB and 2 MiB",
        2 => "pages of 4 KiB and 1 GiB",
        _ => "pages of 4 KiB, 2 MiB and 1 GiB",
    };
    let flag = |field, value: bool, what: &str| (field, u64::from(value), has(value, what));
    list(vec![
        ("nd", cap.nd().into(), format!("{} domains", cap.domains())),
        ("mgaw", cap.mgaw().into(), format!("device addresses of {} bits", cap.guest_address_bits())),
        ("sagaw", cap.sagaw().into(), format!("second-stage tables of {} levels", levels.join(" or "))),
        ("sslps", cap.sslps().into(), large.to_owned()),
        flag("cm", cap.cm(), "caching mode (set by a hypervisor that emulates the unit)"),
        flag("rwbf", cap.rwbf(), "write-buffer flush needed"),
        flag("ir", ecap.ir(), "interrupt remapping"),
        flag("eim", ecap.eim(), "x2APIC interrupts"),
        flag("pi", cap.pi(), "posted interrupts"),
        flag("qi", ecap.qi(), "queued invalidation"),
        flag("dt", ecap.dt(), "device TLBs (ATS)"),
        flag("prs", ecap.prs(), "page requests"),
        flag("pasid", ecap.pasid(), &format!("PASIDs of {} bits", ecap.pasid_bits())),
        flag("smts", ecap.smts(), "scalable mode"),
        flag("fsts", ecap.fsts(), "first-stage translation"),
        flag("nest", ecap.nest(), "nested translation"),
        flag("ssads", ecap.ssads(), "second-stage accessed and dirty bits"),
        flag("pt", ecap.pt(), "pass-through"),
        flag("sc", ecap.sc(), "snoop control"),
        ("nfr", cap.nfr().into(), format!("{} fault records", cap.fault_recording_registers())),
    ])
}

fn amd(features: ExtendedFeature) -> Vec<Capability> {
    let flag = |field, value: bool, what: &str| (field, u64::from(value), has(value, what));
    list(vec![
        ("hats", features.hats().into(), format!("host tables of up to {} levels", features.host_levels())),
        flag("xtsup", features.xtsup(), "x2APIC interrupts"),
        flag("gasup", features.gasup(), "guest virtual APIC"),
        flag("gtsup", features.gtsup(), "guest translation"),
        flag("giosup", features.giosup(), "guest I/O protection"),
        flag(
            "pasmax",
            features.gtsup(),
            &format!("PASIDs of {} bits", features.with_gtsup(true).pasid_bits()),
        ),
        flag("pprsup", features.pprsup(), "page requests"),
        flag("hdsup", features.hdsup(), "host dirty bits"),
        flag("iasup", features.iasup(), "invalidate-all command"),
        flag("snpsup", features.snpsup(), "secure nested paging (SEV-SNP)"),
    ])
}

//! `portcullis decode msi`.

use portcullis_spec::vtd::{
    INTERRUPT_ADDRESS_FIRST, INTERRUPT_ADDRESS_LAST,
    interrupt::{RemappableAddress, RemappableData},
};

use super::{fields::Decoded, hexadecimal};
use crate::{
    exit::{Exit, Failure},
    output::Output,
};

/// Say what a message-signalled interrupt is: its address and data, as lspci -vv shows them.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Address, hexadecimal.
    #[arg(value_parser = hexadecimal)]
    address: u64,
    /// Data, hexadecimal.
    #[arg(value_parser = hexadecimal)]
    data: u64,
}

pub(super) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let data = u32::try_from(arguments.data)
        .map_err(|_| Failure::usage("the data of an interrupt has at most 32 bits"))?;
    let decoded = match arguments.address {
        address if (INTERRUPT_ADDRESS_FIRST..=INTERRUPT_ADDRESS_LAST).contains(&address) => {
            x86(address as u32, data)
        }
        address => other(address, data),
    };
    output.show(&decoded, |decoded, out| decoded.write(out))?;
    Ok(Exit::Done)
}

fn x86(address: u32, data: u32) -> Decoded {
    let remappable = RemappableAddress::from_bits(address);
    if remappable.format() {
        let handle = u32::from(remappable.handle_14_0()) | u32::from(remappable.handle_15()) << 15;
        let subhandle = if remappable.shv() { data & 0xffff } else { 0 };
        return Decoded::new("Interrupt request, remappable format (VT-d 5.1.2.2)")
            .word("vtd", &remappable)
            .word("vtd", &RemappableData::from_bits(data))
            .with(
                "interrupt_index",
                format!("{:#x}", handle + subhandle),
                "Index in the interrupt remapping table: handle, and subhandle where shv is set.",
            );
    }
    let delivery = match data >> 8 & 7 {
        0 => "fixed",
        1 => "lowest priority",
        2 => "SMI",
        4 => "NMI",
        5 => "INIT",
        7 => "ExtINT",
        _ => "reserved",
    };
    let flag =
        |set: bool, yes: &str, no: &str| (u8::from(set).to_string(), if set { yes } else { no }.to_owned());
    let (dm, dm_text) =
        flag(address & 1 << 2 != 0, "The destination is logical.", "The destination is an APIC ID.");
    let (rh, rh_text) = flag(address & 1 << 3 != 0, "One of several processors.", "To the destination.");
    let (trigger, trigger_text) = flag(data & 1 << 15 != 0, "Level.", "Edge.");
    Decoded::new("Interrupt request, compatibility format (SDM 3, 11.11; VT-d 5.1.2.1)")
        .with("destination_id", format!("{:#x}", address >> 12 & 0xff), "Destination, bits 7:0.")
        .with(
            "extended_destination_id",
            format!("{:#x}", address >> 5 & 0x7f),
            "Destination, bits 14:8, where a hypervisor offers them.",
        )
        .with("rh", rh, rh_text)
        .with("dm", dm, dm_text)
        .with("vector", format!("{:#x}", data & 0xff), "Vector.")
        .with("delivery_mode", (data >> 8 & 7).to_string(), delivery)
        .with("level", (data >> 14 & 1).to_string(), "Level, where the trigger is level.")
        .with("trigger_mode", trigger, trigger_text)
        .with(
            "amd_index",
            format!("{:#x}", data & 0x7ff),
            "AMD-Vi, where the device's table entry remaps interrupts: index in its interrupt table (2.2.5).",
        )
        .with(
            "remapped",
            "0",
            "VT-d takes this format only while compatibility format interrupts are allowed (CFIS); it is not remapped.",
        )
}

fn other(address: u64, data: u32) -> Decoded {
    Decoded::new("Interrupt request, outside the x86 window fee00000 to feefffff")
        .with("address", format!("{address:#x}"), "Doorbell.")
        .with(
            "its_event_id",
            format!("{data:#x}"),
            "Arm: where the address is GITS_TRANSLATER (an ITS page and 0x40), the EventID; the DeviceID comes with the write.",
        )
        .with(
            "imsic_identity",
            format!("{data:#x}"),
            format!(
                "RISC-V: where the page {:#x} is an interrupt file, the interrupt identity, written to seteipnum_{}.",
                address >> 12,
                if address & 4 == 0 { "le" } else { "be" }
            ),
        )
}

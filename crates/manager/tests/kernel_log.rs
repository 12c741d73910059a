//! Every form in which the kernel's drivers write a refused transaction, as they stand in real logs.

mod common;

use common::random::Random;
use portcullis_manager::kernel_log::{KernelFault, KernelRecord, LogReader, Missing, Source};
use portcullis_spec::{
    Access, ConfigTable, FaultReason, Iova, Ipa, Pasid, PciAddress, RequestType, Requester, StageNumber,
};

fn read(text: &str) -> Vec<KernelRecord> {
    let mut reader = LogReader::new();
    let mut records: Vec<_> = text.lines().flat_map(|line| reader.push(line)).collect();
    records.extend(reader.flush());
    records
}

fn fault(text: &str) -> KernelFault {
    match read(text).as_slice() {
        [KernelRecord::Fault(fault)] => (**fault).clone(),
        other => panic!("one fault expected of {text:?}, not {other:#?}"),
    }
}

fn pci(bus: u8, device: u8, function: u8) -> Requester {
    PciAddress::new(0, bus, device, function).into()
}

#[test]
fn vtd_since_5_15() {
    let read = fault(
        "[   12.500000] DMAR: [DMA Read NO_PASID] Request device [00:02.0] fault addr 0xdead1000 [fault reason 0x06] PTE Read access is not set",
    );
    assert_eq!(read.source, Source::Vtd);
    assert_eq!(read.since_boot.map(|when| when.as_millis()), Some(12_500));
    assert_eq!(read.fault.requester, pci(0, 2, 0));
    assert_eq!(read.fault.pasid, None);
    assert_eq!(read.fault.address, Iova(0xdead_1000));
    assert_eq!(read.fault.access, Access::READ);
    assert_eq!(read.fault.reason, FaultReason::PermissionDenied);
    assert_eq!(read.fault.stage, Some(StageNumber::Second));
    assert_eq!(read.fault.code, 6);
    assert_eq!(read.event, "PTE Read access is not set");
    assert_eq!(read.missing, [Missing::Segment]);

    let with_pasid = fault(
        "DMAR: [DMA Write PASID 0x2a] Request device [6a:01.0] fault addr 0x7f0000001000 [fault reason 0x71] SM: Present bit in first-level paging entry is clear",
    );
    assert_eq!(with_pasid.fault.pasid, Pasid::new(0x2a));
    assert_eq!(with_pasid.fault.access, Access::WRITE);
    assert_eq!(with_pasid.fault.reason, FaultReason::NotMapped);
    assert_eq!(with_pasid.fault.stage, Some(StageNumber::First));
}

#[test]
fn vtd_of_older_releases() {
    // 4.x: decimal reason, address without 0x. 38 is 0x26.
    let decimal = fault(
        "DMAR: [DMA Write] Request device [02:00.0] fault addr ffff0000 [fault reason 05] PTE Write access is not set",
    );
    assert_eq!(decimal.fault.requester, pci(2, 0, 0));
    assert_eq!(decimal.fault.address, Iova(0xffff_0000));
    assert_eq!(decimal.fault.code, 5);
    // 5.10: the PASID behind the device, all ones for none.
    let behind = fault(
        "DMAR: [DMA Read] Request device [65:00.0] PASID ffffffff fault addr 88a00000 [fault reason 06] PTE Read access is not set",
    );
    assert_eq!((behind.fault.pasid, behind.fault.address), (None, Iova(0x88a0_0000)));
    // 5.14: 0x before every part of the device.
    let prefixed = fault(
        "DMAR: [DMA Read NO_PASID] Request device [0x00:0x1f.5] fault addr 0x1000 [fault reason 0x02] Present bit in context entry is clear",
    );
    assert_eq!(prefixed.fault.requester, pci(0, 0x1f, 5));
    assert_eq!(prefixed.fault.reason, FaultReason::EntryNotPresent(ConfigTable::Device));
    // 3.x: two lines.
    let two = fault(
        "dmar: DMAR:[DMA Read] Request device [00:02.0] fault addr 9f6a5000 \nDMAR:[fault reason 06] PTE Read access is not set",
    );
    assert_eq!((two.fault.address, two.fault.code), (Iova(0x9f6a_5000), 6));
    assert_eq!(two.raw.lines().count(), 2);
    // The same as one record of /dev/kmsg.
    let kmsg = fault(
        "3,9,77,-;DMAR:[DMA Read] Request device [00:02.0] fault addr 9f6a5000 \\x0aDMAR:[fault reason 06] PTE Read access is not set",
    );
    assert_eq!((kmsg.fault.address, kmsg.fault.code), (Iova(0x9f6a_5000), 6));
}

#[test]
fn vtd_report_without_its_second_line_says_what_it_lacks() {
    let half = fault("DMAR:[DMA Read] Request device [00:02.0] fault addr 9f6a5000 \nusb 1-1: new device");
    assert_eq!(half.missing, [Missing::Segment, Missing::Reason]);
}

#[test]
fn vtd_interrupts() {
    let new = fault(
        "DMAR: [INTR-REMAP] Request device [0xc9:0x05.0] fault index 0xa00 [fault reason 0x25] Blocked a compatibility format interrupt request",
    );
    assert_eq!(new.fault.requester, pci(0xc9, 5, 0));
    assert_eq!(new.interrupt_index, Some(0xa00));
    assert_eq!(new.fault.reason, FaultReason::InterruptBlocked);
    assert_eq!(new.fault.code, 0x25);
    let old = fault(
        "DMAR: [INTR-REMAP] Request device [42:00.2] fault index 1600 [fault reason 37] Blocked a compatibility format interrupt request",
    );
    assert_eq!((old.interrupt_index, old.fault.code), (Some(0x1600), 0x25));
    let oldest = fault(
        "dmar: INTR-REMAP: Request device [[f0:1f.0] fault index 1e\nINTR-REMAP:[fault reason 34] Present field in the IRTE entry is clear",
    );
    assert_eq!((oldest.interrupt_index, oldest.fault.code), (Some(0x1e), 0x22));
    assert_eq!(oldest.fault.reason, FaultReason::EntryNotPresent(ConfigTable::Interrupt));
}

#[test]
fn amd_page_faults() {
    let known = fault(
        "nvme 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000e address=0xfffffffdf8000000 flags=0x0020]",
    );
    assert_eq!(known.source, Source::AmdVi);
    assert_eq!((known.device.as_deref(), known.driver.as_deref()), (Some("0000:01:00.0"), Some("nvme")));
    assert_eq!(known.fault.requester, pci(1, 0, 0));
    assert_eq!(known.domain, Some(0xe));
    assert_eq!(known.fault.address, Iova(0xffff_fffd_f800_0000));
    // RW is set, PR is not: a write to what is not mapped.
    assert_eq!((known.fault.access, known.fault.reason), (Access::WRITE, FaultReason::NotMapped));
    assert_eq!(known.missing, []);

    let unknown = fault(
        "AMD-Vi: Event logged [IO_PAGE_FAULT device=0002:c1:00.1 domain=0x0000 address=0x1000 flags=0x0010]",
    );
    assert_eq!(unknown.fault.requester, PciAddress::new(2, 0xc1, 0, 1).into());
    assert_eq!((unknown.fault.access, unknown.fault.reason), (Access::READ, FaultReason::PermissionDenied));

    let no_segment = fault(
        "AMD-Vi: Event logged [IO_PAGE_FAULT device=03:00.0 domain=0x0017 address=0x00000000d3c40000 flags=0x0050]",
    );
    assert_eq!(no_segment.fault.requester, pci(3, 0, 0));
    assert_eq!(no_segment.missing, [Missing::Segment]);

    let interrupt = fault(
        "pci 0000:00:14.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0000 address=0xfffffffdf8000000 flags=0x0008]",
    );
    assert_eq!((interrupt.fault.reason, interrupt.driver), (FaultReason::InterruptBlocked, None));
}

#[test]
fn other_amd_events() {
    let request = fault(
        "iommu ivhd0: AMD-Vi: Event logged [INVALID_DEVICE_REQUEST device=0000:00:00.0 pasid=0x00000 address=0xfffffffdf8000000 flags=0x0a00]",
    );
    assert_eq!(request.unit.as_deref(), Some("ivhd0"));
    assert_eq!((request.fault.code, request.fault.reason), (8, FaultReason::RequestBlocked));
    let rmp = fault(
        "mlx5_core 0000:41:00.0: AMD-Vi: Event logged [RMP_PAGE_FAULT vmg_tag=0x0000, gpa=0x12345000, flags_rmp=0x0001, flags=0x0020]",
    );
    assert_eq!((rmp.fault.code, rmp.fault.address), (0xe, Iova(0x1234_5000)));
    assert_eq!(rmp.fault.requester, pci(0x41, 0, 0));
    assert_eq!(rmp.fault.access, Access::WRITE);
    let entry = fault(
        "AMD-Vi: Event logged [ILLEGAL_DEV_TABLE_ENTRY device=0000:09:00.0 pasid=0x00000 address=0xffff0000 flags=0x0080]",
    );
    assert_eq!(entry.fault.reason, FaultReason::EntryInvalid(ConfigTable::Device));
    for text in [
        "AMD-Vi: Event logged [ILLEGAL_COMMAND_ERROR address=0x12340]",
        "AMD-Vi: Event logged [IOTLB_INV_TIMEOUT device=0b:00.0 address=0x000000083d7b8d20]",
    ] {
        assert!(
            matches!(read(text).as_slice(), [KernelRecord::Unit { source: Source::AmdVi, .. }]),
            "{text}"
        );
    }
}

const SMMUV3: &str = "\
arm-smmu-v3 arm-smmu-v3.0.auto: event 0x13 received:
arm-smmu-v3 arm-smmu-v3.0.auto: \t0x0000001000005813
arm-smmu-v3 arm-smmu-v3.0.auto: \t0x0000028a00000001
arm-smmu-v3 arm-smmu-v3.0.auto: \t0x00000000fffff040
arm-smmu-v3 arm-smmu-v3.0.auto: \t0x0000000080abc00f";

#[test]
fn smmuv3_raw_words() {
    // StreamID 0x10, SSV with substream 5; PnU, RnW and S2 set, class IN.
    let read = fault(SMMUV3);
    assert_eq!(read.unit.as_deref(), Some("arm-smmu-v3.0.auto"));
    assert_eq!(read.event, "F_PERMISSION");
    assert_eq!(read.fault.requester, Requester::Stream(0x10));
    assert_eq!(read.fault.pasid, Pasid::new(5));
    assert_eq!(read.fault.address, Iova(0xffff_f040));
    assert_eq!(read.fault.ipa, Some(Ipa(0x80ab_c000)));
    assert_eq!((read.fault.access, read.fault.privileged), (Access::READ, true));
    assert_eq!(read.fault.stage, Some(StageNumber::Second));
    assert_eq!(read.fault.reason, FaultReason::PermissionDenied);
}

#[test]
fn smmuv3_raw_and_in_words_is_one_fault() {
    let text = format!(
        "{SMMUV3}\n\
         arm-smmu-v3 arm-smmu-v3.0.auto: event: F_PERMISSION client: 0000:00:02.0 sid: 0x10 ssid: 0x5 iova: 0xfffff040 ipa: 0x80abc000\n\
         arm-smmu-v3 arm-smmu-v3.0.auto: priv data read s2 \"Input address caused fault\" stag: 0x1"
    );
    let read = fault(&text);
    assert_eq!(read.device.as_deref(), Some("0000:00:02.0"));
    assert_eq!(read.fault, fault(SMMUV3).fault);
    assert_eq!(read.raw.lines().count(), 7);
}

#[test]
fn smmuv3_in_words_alone() {
    let read = fault(
        "[  3.1] x\n\
         arm-smmu-v3 arm-smmu-v3.1.auto: event: F_TRANSLATION client: (unassigned sid) sid: 0x1f ssid: 0 iova: 0xdead0000 ipa: 0x0\n\
         arm-smmu-v3 arm-smmu-v3.1.auto: unpriv inst read s1 \"Input address caused fault\" stall stag: 0x0",
    );
    assert_eq!((read.device, read.fault.code), (None, 0x10));
    assert_eq!(read.fault.access, Access::EXECUTE);
    assert_eq!(read.fault.reason, FaultReason::NotMapped);
    assert_eq!(read.missing, []);
    let stream = fault("arm-smmu-v3 smmu3: event: C_BAD_STREAMID client: (unassigned sid) sid: 0x40 ssid: 0");
    assert_eq!(stream.fault.reason, FaultReason::RequesterUnsupported);
    assert_eq!(stream.missing, [Missing::Access, Missing::Address]);
}

#[test]
fn smmuv3_lost_events_are_said() {
    let records = read("arm-smmu-v3 arm-smmu-v3.0.auto: EVTQ overflow detected -- events lost");
    assert!(matches!(records.as_slice(), [KernelRecord::Unit { lost: true, .. }]), "{records:?}");
}

#[test]
fn smmuv2() {
    let text = "\
arm-smmu 15000000.iommu: Unhandled context fault: fsr=0x402, iova=0xd65504710, fsynr=0x100011, cbfrsynra=0x1c00, cb=6
arm-smmu 15000000.iommu: FSR    = 00000402 [Format=2 TF], SID=0x1c00
arm-smmu 15000000.iommu: FSYNR0 = 00100011 [S1CBNDX=16 WNR PLVL=1]";
    let read_ = fault(text);
    assert_eq!(read_.unit.as_deref(), Some("15000000.iommu"));
    assert_eq!(read_.fault.requester, Requester::Stream(0x1c00));
    assert_eq!(read_.fault.address, Iova(0xd_6550_4710));
    assert_eq!((read_.fault.access, read_.fault.reason), (Access::WRITE, FaultReason::NotMapped));
    let blocked = fault(
        "arm-smmu 5000000.iommu: Blocked unknown Stream ID 0x803; boot with \"arm-smmu.disable_bypass=0\" to allow, but this may have security implications",
    );
    assert_eq!(blocked.fault.requester, Requester::Stream(0x803));
    // Before cbfrsynra was written, nobody could say whose fault it was.
    let records = read(
        "arm-smmu e0200000.smmu: Unhandled context fault: fsr=0x402, iova=0x8424cb148, fsynr=0xb0001, cb=0",
    );
    assert!(matches!(records.as_slice(), [KernelRecord::Unit { source: Source::Smmuv2, .. }]), "{records:?}");
}

#[test]
fn virtio_and_riscv() {
    let page = fault("virtio_iommu virtio0: page fault from EP 8 at 0xcafe000 [ W ]");
    assert_eq!(page.fault.requester, Requester::Endpoint(8));
    assert_eq!((page.fault.access, page.fault.address), (Access::WRITE, Iova(0xcafe000)));
    let riscv = fault("riscv,pci-iommu 0000:00:01.0: Fault 15 devid: 0x10 iotval: ffff2000 iotval2: 0");
    assert_eq!(riscv.fault.requester, Requester::Device(0x10));
    assert_eq!((riscv.fault.access, riscv.fault.reason), (Access::WRITE, FaultReason::NotMapped));
    assert_eq!(riscv.fault.request_type, RequestType::Untranslated);
}

#[test]
fn suppressed_lines_are_counted() {
    let records = read(
        "[    9.1] z\ndmar_fault: 122 callbacks suppressed\namd_iommu_report_page_fault: 7 callbacks suppressed\nnet_ratelimit: 5 callbacks suppressed",
    );
    let counts: Vec<_> = records
        .iter()
        .map(|record| match record {
            KernelRecord::Suppressed { source, count, .. } => (*source, *count),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(counts, [(Source::Vtd, 122), (Source::AmdVi, 7)]);
}

#[test]
fn other_lines_are_nothing() {
    let text = "DMAR: DRHD: handling fault status reg 2\nDMAR: IOMMU enabled\nAMD-Vi: Interrupt remapping enabled\narm-smmu-v3 arm-smmu-v3.0.auto: ias 44-bit, oas 44-bit (features 0x00008305)\n";
    assert_eq!(read(text), []);
}

/// A line from anyone's hand costs a line: no panic, and nothing kept beyond one report.
#[test]
fn hostile_lines_do_no_harm() {
    let seeds = [
        SMMUV3.to_owned(),
        "DMAR: [DMA Write PASID 0x2a] Request device [6a:01.0] fault addr 0x7f0000001000 [fault reason 0x71] x".to_owned(),
        "nvme 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000e address=0xfffffffdf8000000 flags=0x0020]".to_owned(),
        "arm-smmu 15000000.iommu: Unhandled context fault: fsr=0x402, iova=0xd6, fsynr=0x100011, cbfrsynra=0x1c00, cb=6".to_owned(),
        "virtio_iommu virtio0: page fault from EP 8 at 0xcafe000 [ W ]".to_owned(),
        "riscv,pci-iommu 0000:00:01.0: Fault 15 devid: 0x10 iotval: ffff2000 iotval2: 0".to_owned(),
    ];
    let mut random = Random(1);
    let mut reader = LogReader::new();
    let mut faults = 0u64;
    for _ in 0..60_000 {
        let mut bytes = seeds[random.below(seeds.len() as u64) as usize].clone().into_bytes();
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(3) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes.truncate(at + 1),
                _ => bytes.insert(at, b"[]:.x0 \n"[random.below(8) as usize]),
            }
        }
        faults += reader.push(&String::from_utf8_lossy(&bytes)).len() as u64;
    }
    assert!(faults > 10_000, "mutation leaves most lines readable: {faults}");
}

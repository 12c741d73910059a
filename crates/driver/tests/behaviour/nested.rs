//! First stages and directories that a guest writes, on a second stage of the host's.

use portcullis_driver::common::architecture::Architecture;
use portcullis_driver::{Device, Domain, Error, Unit};
use portcullis_spec::{
    Access, DirectoryFormat, GuestDirectory, Iova, Ipa, PagingFormat, Pasid, PhysAddr, Requester, SpaceTag,
    StageRules, Unnumbered,
};

use super::guest::{BYTES, Guest};
use super::{Bench, domain_of, scaled};

/// Beyond what any table of a guest's is used for: a multiple of 4 that leaves 8 divided by 128.
const OFFSET: u64 = 0x808;
/// Address spaces of the guest's own.
const SPACES: [u32; 2] = [0x21, 0x22];

/// The host's side of a guest.
struct Host<'t, A: Architecture, B: Bench> {
    bench: &'t B,
    unit: &'t Unit<A>,
    device: Requester,
    parent: Domain<A>,
}

impl<A: Architecture, B: Bench> Host<'_, A, B> {
    /// Lets the guest reach a part of its memory, page by page: QEMU does not know the larger ones of Svnapot.
    fn give(&self, guest: &Guest<'_, B::Memory>, first: u64, bytes: u64) {
        let page = scaled(self.unit)(0x1000);
        for address in (first..first + bytes).step_by(page as usize) {
            let physical = PhysAddr(guest.base().0 + address);
            self.parent.map(Iova(address), physical, page, Access::READ_WRITE).unwrap();
        }
    }

    fn dma(&self, pasid: Option<Pasid>, address: u64, write: bool) -> Option<u64> {
        self.bench.dma(self.device, pasid, address + OFFSET, write).ok()
    }

    /// The guest's directory of one format and rule, with the first set of tables for what it says of requests without PASID.
    fn with_directory(
        &self,
        guest: &Guest<'_, B::Memory>,
        shape: PagingFormat,
        format: DirectoryFormat,
        unnumbered: Unnumbered,
    ) -> bool {
        let tables = [guest.write_tables(0, shape), guest.write_tables(1, shape)];
        guest.write_entry(format, 0, &tables[0], SPACES[0]);
        let directory =
            GuestDirectory { format, root: guest.directory(), unnumbered, rules: StageRules::empty() };
        let nested = self.unit.nested_domain(&self.parent, directory).unwrap();
        match self.unit.attach(self.device, None, &nested) {
            Ok(()) => {}
            // RISC-V has no way to say so.
            Err(Error::Unsupported(_)) if unnumbered == Unnumbered::Refused => return false,
            Err(error) => panic!("{directory:?}: {error}"),
        }
        let [first, second] = [tables[0].address, tables[1].address];
        let zero = format.pasid_bits() == 0 || unnumbered == Unnumbered::Zero;
        match unnumbered {
            _ if zero => assert_eq!(self.dma(None, first, true), Some(guest.data(0) + OFFSET)),
            Unnumbered::Bypass => {
                assert_eq!(self.dma(None, guest.data_page(1), true), Some(guest.data(1) + OFFSET));
                assert_eq!(self.dma(None, BYTES, false), None);
            }
            _ => assert_eq!(self.dma(None, first, false), None),
        }
        if zero {
            self.follows(guest, &nested, &tables[0], Some(SpaceTag(SPACES[0])));
        }
        if format.pasid_bits() > 0 && self.bench.sends_pasids() {
            let highest = guest.highest(format);
            assert_eq!(self.dma(Some(highest), second, false), None);
            guest.write_entry(format, highest.value(), &tables[1], SPACES[1]);
            self.unit.invalidate_directory(self.device, Some(highest)).unwrap();
            assert_eq!(self.dma(Some(highest), second, true), Some(guest.data(1) + OFFSET));
            // What is said of another address space does not matter to this one; of all, it does.
            let entry = guest.take_page(&tables[1]);
            nested.invalidate_first_stage(Some(SpaceTag(SPACES[0])), None).unwrap();
            assert!(self.dma(Some(highest), second, false).is_some(), "still cached");
            nested.invalidate_first_stage(None, None).unwrap();
            assert_eq!(self.dma(Some(highest), second, false), None);
            guest.give_page(&tables[1], entry);
            assert!(self.dma(Some(highest), second, false).is_some());
            guest.clear_entry(format, highest.value());
            assert!(self.dma(Some(highest), second, false).is_some(), "still cached");
            self.unit.invalidate_directory(self.device, Some(highest)).unwrap();
            nested.invalidate_first_stage(Some(SpaceTag(SPACES[1])), None).unwrap();
            assert_eq!(self.dma(Some(highest), second, false), None);
            if zero {
                // PASID 0 is what requests without one use.
                guest.clear_entry(format, 0);
                self.unit.invalidate_directory(self.device, None).unwrap();
                nested.invalidate_first_stage(None, None).unwrap();
                assert_eq!(self.dma(None, first, false), None);
            }
        }
        self.unit.detach(self.device, None).unwrap();
        assert_eq!(self.dma(None, first, false), None);
        assert_eq!(self.dma(None, guest.data_page(1), false), None);
        assert_eq!(self.unit.invalidate_directory(self.device, None), Err(Error::NotAttached(self.device)));
        true
    }

    /// Both stages are followed when either changes: the first's when the guest says so, the second's when the host's unmap returns.
    fn follows(
        &self,
        guest: &Guest<'_, B::Memory>,
        nested: &Domain<A>,
        tables: &super::guest::Tables,
        space: Option<SpaceTag>,
    ) {
        let (address, page) = (tables.address, tables.page);
        let there = Some(guest.data(0) + OFFSET);
        assert_eq!(self.dma(None, address, false), there);
        assert_eq!(self.dma(None, address + page, false), None);
        let entry = guest.take_page(tables);
        assert_eq!(self.dma(None, address, false), there, "still cached: nothing was invalidated");
        nested.invalidate_first_stage(space, Some((Iova(address), Iova(address + page - 1)))).unwrap();
        assert_eq!(self.dma(None, address, false), None);
        guest.give_page(tables, entry);
        // Where what is not there is cached too, or stores wait in a buffer, the guest says this as well.
        nested.invalidate_first_stage(space, None).unwrap();
        assert_eq!(self.dma(None, address, true), there);
        // The host takes memory away from under the guest: what was cached of both stages goes, though nobody knows its IOVA.
        self.parent.unmap(Iova(guest.data_page(0)), 1 << 16).unwrap();
        assert_eq!(self.dma(None, address, false), None);
        let mut last = None;
        self.unit.read_faults(|record| last = Some(record.fault));
        // VT-d has no place for the address between the stages.
        let between = last.and_then(|fault| fault.ipa).map(|ipa| ipa.0 & !0xfff);
        assert!(between.is_none() || between == Some(guest.data_page(0)), "{last:?}");
        assert_eq!(last.map(|fault| fault.requester), Some(self.device));
        self.give(guest, guest.data_page(0), 1 << 16);
        assert_eq!(self.dma(None, address, true), there);
        assert_eq!(nested.map(Iova(0), PhysAddr(0), page, Access::READ), Err(Error::NoMappings));
    }
}

/// First-stage tables for a unit of this second stage: those by themselves, and those in directories.
fn first_stages(parent: PagingFormat, nested: &[PagingFormat]) -> Vec<PagingFormat> {
    match parent {
        PagingFormat::ArmStage2 { granule, .. } => {
            vec![PagingFormat::ArmStage1 { granule, input_bits: 48, output_bits: 32, upper: false }]
        }
        _ => nested.to_vec(),
    }
}

pub(crate) fn nested_domains_stand_on_their_parent<A: Architecture>(bench: &impl Bench, unit: &Unit<A>) {
    let features = unit.features().clone();
    let [device, ..] = bench.strangers();
    let mut shown = 0;
    // The PASIDs of a guest's directory are none of the host's.
    unit.add_device(Device::new(device)).unwrap();
    for parent in features.formats.iter().filter(|format| format.parent).map(|format| format.shape) {
        let guest = Guest::new(bench);
        let host = Host { bench, unit, device, parent: domain_of(unit, parent) };
        host.give(&guest, 0, BYTES);
        for shape in first_stages(parent, &features.nested) {
            if features.nested.contains(&shape) {
                let tables = guest.write_tables(0, shape);
                let nested = unit.nested_domain(&host.parent, tables.stage).unwrap();
                unit.attach(device, None, &nested).unwrap();
                host.follows(&guest, &nested, &tables, None);
                assert_eq!(unit.nested_domain(&nested, tables.stage).err(), Some(Error::NotAParent));
                unit.detach(device, None).unwrap();
                assert_eq!(host.dma(None, tables.address, false), None);
                shown += 1;
            }
            for most in &features.directories {
                for unnumbered in [Unnumbered::Zero, Unnumbered::Bypass, Unnumbered::Refused] {
                    shown += usize::from(host.with_directory(&guest, shape, *most, unnumbered));
                }
            }
        }
        drop(host);
        guest.free();
    }
    let some = !features.nested.is_empty() || !features.directories.is_empty();
    assert_eq!(shown > 0, some);
    unit.remove_device(device).unwrap();
}

/// What a guest calls its directory is the guest's: nothing that a unit can't have is written into its entry.
pub(crate) fn directories_that_do_not_fit_are_refused<A: Architecture>(bench: &impl Bench, unit: &Unit<A>) {
    let features = unit.features().clone();
    let Some(parent) = features.formats.iter().find(|format| format.parent) else { return };
    let [device, ..] = bench.strangers();
    unit.add_device(Device::new(device)).unwrap();
    let parent = domain_of(unit, parent.shape);
    let gcr3 = DirectoryFormat::AmdGcr3 { levels: 1 };
    let directory = |format, root| GuestDirectory {
        format,
        root: Ipa(root),
        unnumbered: Unnumbered::Zero,
        rules: StageRules::empty(),
    };
    assert!(matches!(unit.nested_domain(&parent, directory(gcr3, 0)).err(), Some(Error::Unsupported(_))));
    for most in features.directories {
        let beyond = match most {
            DirectoryFormat::ArmContextDescriptors { pasid_bits, layout } => {
                DirectoryFormat::ArmContextDescriptors { pasid_bits: pasid_bits + 1, layout }
            }
            _ => DirectoryFormat::RiscvProcessDirectory { levels: 4 },
        };
        let refused = unit.nested_domain(&parent, directory(beyond, 0)).err();
        assert!(matches!(refused, Some(Error::Unsupported(_))), "{refused:?}");
        for root in [0x1008, 1 << 56, u64::MAX] {
            let nested = unit.nested_domain(&parent, directory(most, root)).unwrap();
            let refused = unit.attach(device, None, &nested).unwrap_err();
            assert!(matches!(refused, Error::Unsupported(_)), "{refused:?}");
        }
        // Whether flags are set, Arm's descriptors say; RISC-V's entry of the device does, where the unit can.
        let sets = GuestDirectory { rules: StageRules::SET_DIRTY, ..directory(most, 0) };
        let can = matches!(most, DirectoryFormat::RiscvProcessDirectory { .. }) && features.formats[0].dirty;
        let nested = unit.nested_domain(&parent, sets).unwrap();
        let refused = unit.attach(device, None, &nested);
        assert_eq!(refused.is_ok(), can, "{refused:?}");
        if refused.is_ok() {
            unit.detach(device, None).unwrap();
        }
    }
    unit.remove_device(device).unwrap();
}

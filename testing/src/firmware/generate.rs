//! Tables made up at random, of every kind of structure that the writer knows.

use portcullis_firmware::acpi::{Header, Reference, Table, dmar, iort, ivrs, rimt, viot};
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

/// Which structures may occur.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Range {
    /// All, with values of all kinds, also such as the specifications reserve.
    Everything,
    /// Those that iasl 20200925 knows, as they should be.
    KnownToIasl,
}

/// Makes tables.
pub struct Generator<'r> {
    random: &'r mut ChaCha8Rng,
    range: Range,
}

impl<'r> Generator<'r> {
    /// Makes tables of `range` from `random`.
    pub fn new(random: &'r mut ChaCha8Rng, range: Range) -> Self {
        Self { random, range }
    }

    /// One table.
    pub fn table(&mut self) -> Table {
        let kinds = if self.wild() { 5 } else { 3 };
        match self.random.random_range(0..kinds) {
            0 => Table::Dmar(self.dmar()),
            1 => Table::Ivrs(self.ivrs()),
            2 => Table::Iort(self.iort()),
            3 => Table::Viot(self.viot()),
            _ => Table::Rimt(self.rimt()),
        }
    }

    fn wild(&self) -> bool {
        self.range == Range::Everything
    }

    fn number<T: TryFrom<u64> + Default>(&mut self) -> T {
        let value = self.random.next_u64() >> self.random.random_range(0..64);
        let mask = match size_of::<T>() {
            8.. => u64::MAX,
            bytes => (1 << (8 * bytes)) - 1,
        };
        T::try_from(value & mask).unwrap_or_default()
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        if self.wild() {
            self.random.fill_bytes(&mut bytes);
        }
        bytes
    }

    /// A register base: aligned, where it is not to be a wild one.
    fn base(&mut self) -> u64 {
        let base: u64 = self.number();
        if self.wild() && self.random.random_bool(0.5) { base } else { base & !0xffff }
    }

    /// Reserved fields are zero where iasl is to be content.
    fn reserved<T: TryFrom<u64> + Default>(&mut self) -> T {
        if self.wild() { self.number() } else { T::default() }
    }

    fn text<const N: usize>(&mut self) -> [u8; N] {
        core::array::from_fn(|_| self.random.random_range(b'A'..=b'Z'))
    }

    fn some(&mut self, most: usize) -> usize {
        self.random.random_range(0..=most)
    }

    fn blob(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.some(most)];
        self.random.fill_bytes(&mut bytes);
        bytes
    }

    /// A path in the namespace with its NUL, filled up to a multiple of four after `before` bytes.
    fn name(&mut self, before: usize) -> Vec<u8> {
        let mut name = b"\\_SB".to_vec();
        for _ in 0..=self.some(2) {
            name.push(b'.');
            name.extend(self.text::<4>());
        }
        name.push(0);
        // iasl 20200925 stops at a named component with mappings but without padding.
        name.push(0);
        while !(name.len() + before).is_multiple_of(4) {
            name.push(0);
        }
        name
    }

    fn header(&mut self, revision: u8) -> Header {
        Header {
            revision: if self.wild() { self.number() } else { revision },
            oem_id: self.text(),
            oem_table_id: self.text(),
            oem_revision: self.number(),
            creator_id: self.text(),
            creator_revision: self.number(),
        }
    }

    fn dmar(&mut self) -> dmar::Dmar {
        let platform = dmar::PlatformInfo {
            host_address_width: self.number(),
            flags: self.number(),
            reserved: self.bytes(),
        };
        let structures = (0..self.some(8)).map(|_| self.remapping_structure()).collect();
        dmar::Dmar { header: self.header(1), platform, structures }
    }

    fn remapping_structure(&mut self) -> dmar::Structure {
        use dmar::Structure;
        let kinds = if self.wild() { 8 } else { 5 };
        match self.random.random_range(0..kinds) {
            0 => Structure::Drhd(
                dmar::Drhd {
                    flags: self.number(),
                    size: self.reserved(),
                    segment: self.number(),
                    register_base: self.base(),
                },
                self.scopes(),
            ),
            1 => Structure::Rmrr(
                dmar::Rmrr {
                    reserved: self.reserved(),
                    segment: self.number(),
                    base: self.number(),
                    limit: self.number(),
                },
                self.scopes(),
            ),
            2 => Structure::Atsr(
                dmar::Atsr { flags: self.number(), reserved: self.reserved(), segment: self.number() },
                self.scopes(),
            ),
            3 => Structure::Rhsa(dmar::Rhsa {
                reserved: self.reserved(),
                register_base: self.base(),
                proximity_domain: self.number(),
            }),
            4 => Structure::Andd(
                dmar::Andd { reserved: self.bytes(), device_number: self.number() },
                self.name(8),
            ),
            5 => Structure::Satc(
                dmar::Satc { flags: self.number(), reserved: self.reserved(), segment: self.number() },
                self.scopes(),
            ),
            6 => Structure::Sidp(
                dmar::Sidp { reserved: self.reserved(), segment: self.number() },
                self.scopes(),
            ),
            _ => Structure::Unknown(self.random.random_range(7..=u16::MAX), self.blob(32)),
        }
    }

    fn scopes(&mut self) -> Vec<dmar::Scope> {
        (0..self.some(4)).map(|_| self.scope()).collect()
    }

    fn scope(&mut self) -> dmar::Scope {
        let kind = if self.wild() { self.number() } else { self.random.random_range(1..=5) };
        // iasl reads at least one hop, and warns of none.
        let hops = if self.wild() { self.some(3) } else { 1 + self.some(2) };
        dmar::Scope {
            info: dmar::ScopeInfo {
                kind,
                flags: self.reserved(),
                reserved: self.reserved(),
                enumeration_id: self.number(),
                start_bus: self.number(),
            },
            path: (0..hops)
                .map(|_| (self.random.random_range(0..32), self.random.random_range(0..8)))
                .collect(),
            odd_byte: (self.wild() && self.random.random_bool(0.05)).then(|| self.number()),
        }
    }

    fn ivrs(&mut self) -> ivrs::Ivrs {
        let platform = ivrs::PlatformInfo { iv_info: self.number(), reserved: self.reserved() };
        let definitions = (0..self.some(5)).map(|_| self.definition()).collect();
        ivrs::Ivrs { header: self.header(2), platform, definitions }
    }

    fn definition(&mut self) -> ivrs::Definition {
        use ivrs::Definition;
        let kinds = if self.wild() { 5 } else { 3 };
        match self.random.random_range(0..kinds) {
            0 => {
                let ivhd = ivrs::Ivhd10 {
                    flags: self.number(),
                    device_id: self.number(),
                    capability_offset: self.number(),
                    base: self.base(),
                    segment: self.number(),
                    info: self.number(),
                    features: self.number(),
                };
                Definition::Ivhd10(ivhd, self.entries())
            }
            kind @ (1 | 3) => {
                let ivhd = ivrs::Ivhd11 {
                    flags: self.number(),
                    device_id: self.number(),
                    capability_offset: self.number(),
                    base: self.base(),
                    segment: self.number(),
                    info: self.number(),
                    attributes: self.number(),
                    efr: self.number(),
                    efr2: self.number(),
                };
                let entries = self.entries();
                if kind == 1 { Definition::Ivhd11(ivhd, entries) } else { Definition::Ivhd40(ivhd, entries) }
            }
            2 => {
                let ivmd = ivrs::Ivmd {
                    kind: self.random.random_range(0x20..=0x22),
                    flags: self.number(),
                    device_id: self.number(),
                    auxiliary_data: self.number(),
                    segment: self.reserved(),
                    reserved: self.bytes(),
                    start: self.number(),
                    length: self.number(),
                };
                let rest = if self.wild() { self.blob(4) } else { Vec::new() };
                Definition::Ivmd(ivmd, rest)
            }
            _ => Definition::Unknown(self.random.random_range(0x41..=0xff), self.number(), self.blob(24)),
        }
    }

    fn entries(&mut self) -> Vec<ivrs::Entry> {
        (0..self.some(8)).map(|_| self.entry()).collect()
    }

    fn entry(&mut self) -> ivrs::Entry {
        use ivrs::Entry;
        let kinds = if self.wild() { 6 } else { 4 };
        let kind = self.random.random_range(0..kinds);
        let (device_id, dte_setting) = (self.number(), self.number());
        match kind {
            0 => {
                let last = if self.wild() { 63 } else { 4 };
                Entry::Short(ivrs::Short { kind: self.random.random_range(0..=last), device_id, dte_setting })
            }
            1 => Entry::Alias(ivrs::Alias {
                kind: self.random.random_range(66..=67),
                device_id,
                dte_setting,
                reserved1: self.reserved(),
                source_device_id: self.number(),
                reserved2: self.reserved(),
            }),
            2 => Entry::Extended(ivrs::Extended {
                kind: self.random.random_range(70..=71),
                device_id,
                dte_setting,
                extended_dte_setting: self.number(),
            }),
            3 => Entry::Special(ivrs::Special {
                reserved: self.reserved(),
                dte_setting,
                handle: self.number(),
                source_device_id: self.number(),
                variety: self.random.random_range(1..=2),
            }),
            4 => {
                let acpi = ivrs::Acpi {
                    device_id,
                    dte_setting,
                    hid: self.text(),
                    cid: [0; 8],
                    uid_format: self.random.random_range(0..=3),
                };
                Entry::Acpi(acpi, self.blob(40))
            }
            _ => {
                let (kind, length) = match self.some(2) {
                    0 => (64, 8),
                    1 => (self.random.random_range(128..192), 16),
                    _ => (self.random.random_range(192..240), 32),
                };
                let mut rest = vec![0; length - 1];
                self.random.fill_bytes(&mut rest);
                Entry::Other(kind, rest)
            }
        }
    }

    /// A reference to one of `nodes` nodes, or rarely to nowhere.
    fn reference(&mut self, nodes: usize) -> Reference {
        if self.random.random_bool(0.05) {
            Reference::Offset(self.random.random_range(0..36))
        } else {
            Reference::Node(self.random.random_range(0..nodes))
        }
    }

    fn iort(&mut self) -> iort::Iort {
        let count = 1 + self.some(8);
        let nodes = (0..count).map(|_| self.iort_node(count)).collect();
        let padding = if self.random.random_bool(0.2) { vec![0; 4] } else { Vec::new() };
        iort::Iort { header: self.header(0), reserved: self.reserved(), padding, nodes }
    }

    fn iort_node(&mut self, nodes: usize) -> iort::Node {
        use iort::NodeKind;
        let kinds = if self.wild() { 8 } else { 6 };
        let revision = if self.wild() { self.random.random_range(0..6) } else { 1 };
        let kind = match self.random.random_range(0..kinds) {
            0 => NodeKind::ItsGroup((0..=self.some(3)).map(|_| self.number()).collect()),
            1 => {
                let component = iort::NamedComponent {
                    flags: self.number(),
                    cache_coherency: self.number(),
                    hints: self.number(),
                    reserved: self.reserved(),
                    memory_flags: self.number(),
                    memory_address_limit: self.number(),
                };
                NodeKind::NamedComponent(component, self.name(29))
            }
            2 => NodeKind::RootComplex(iort::RootComplex {
                cache_coherency: self.number(),
                hints: self.number(),
                reserved1: self.reserved(),
                memory_flags: self.number(),
                ats_attribute: self.number(),
                segment: if self.random.random_bool(0.7) { 0 } else { self.number() },
                memory_address_limit: self.number(),
                pasid_capabilities: self.reserved(),
                reserved2: self.reserved(),
                flags: if revision < 4 { 0 } else { self.number() },
            }),
            3 => {
                let smmu = iort::Smmu {
                    base: self.base(),
                    span: self.number(),
                    model: self.number(),
                    flags: self.number(),
                };
                let global = iort::GlobalInterrupts {
                    fault: self.number(),
                    fault_flags: self.number(),
                    configuration: self.number(),
                    configuration_flags: self.number(),
                };
                let absent = self.wild() && self.random.random_bool(0.2);
                NodeKind::Smmu(smmu, (!absent).then_some(global), self.interrupts(), self.interrupts())
            }
            4 => {
                let later = revision >= 1;
                NodeKind::SmmuV3(iort::SmmuV3 {
                    base: self.base(),
                    flags: self.number(),
                    reserved: self.reserved(),
                    vatos: self.number(),
                    model: self.number(),
                    event_gsiv: self.number(),
                    pri_gsiv: self.number(),
                    gerr_gsiv: self.number(),
                    sync_gsiv: self.number(),
                    proximity_domain: if later { self.number() } else { 0 },
                    device_id_mapping_index: if later { self.number() } else { 0 },
                })
            }
            5 => {
                let pmcg = iort::Pmcg {
                    page0_base: self.number(),
                    overflow_gsiv: self.number(),
                    page1_base: if revision >= 1 { self.number() } else { 0 },
                };
                NodeKind::Pmcg(pmcg, self.reference(nodes))
            }
            6 => {
                let descriptors = (0..self.some(3)).map(|_| iort::RmrDescriptor {
                    base: self.number(),
                    length: self.number(),
                    reserved: self.number(),
                });
                let descriptors = descriptors.collect();
                NodeKind::Rmr(iort::Rmr { flags: self.number() }, descriptors)
            }
            _ => NodeKind::Unknown(self.random.random_range(7..=u8::MAX), self.blob(32)),
        };
        let most = if matches!(kind, NodeKind::ItsGroup(_)) { 0 } else { 3 };
        let mappings = (0..self.some(most)).map(|_| iort::Mapping {
            info: iort::MappingInfo {
                input_base: if self.random.random_bool(0.7) {
                    self.number::<u16>().into()
                } else {
                    self.number()
                },
                id_count: if self.random.random_bool(0.7) {
                    self.number::<u8>().into()
                } else {
                    self.number()
                },
                output_base: self.number(),
                flags: if self.random.random_bool(0.8) { 0 } else { self.number() },
            },
            output: self.reference(nodes),
        });
        let mappings = mappings.collect();
        iort::Node { revision, identifier: self.number(), kind, mappings }
    }

    fn interrupts(&mut self) -> Vec<iort::Interrupt> {
        (0..self.some(3)).map(|_| iort::Interrupt { gsiv: self.number(), flags: self.number() }).collect()
    }

    fn viot(&mut self) -> viot::Viot {
        use viot::Node;
        let count = 1 + self.some(6);
        let nodes = (0..count).map(|_| match self.some(4) {
            0 => {
                let range = viot::PciRange {
                    reserved1: self.number(),
                    endpoint_start: self.number(),
                    segment_start: self.number(),
                    segment_end: self.number(),
                    bdf_start: self.number(),
                    bdf_end: self.number(),
                    reserved2: self.bytes(),
                };
                Node::PciRange(range, self.reference(count))
            }
            1 => {
                let endpoint = viot::MmioEndpoint {
                    reserved1: self.number(),
                    endpoint: self.number(),
                    base: self.number(),
                    reserved2: self.bytes(),
                };
                Node::MmioEndpoint(endpoint, self.reference(count))
            }
            2 => Node::PciIommu(viot::PciIommu {
                reserved1: self.number(),
                segment: self.number(),
                bdf: self.number(),
                reserved2: self.number(),
            }),
            3 => Node::MmioIommu(viot::MmioIommu {
                reserved1: self.number(),
                reserved2: self.number(),
                base: self.number(),
            }),
            _ => Node::Unknown(self.random.random_range(5..=u8::MAX), self.blob(24)),
        });
        let nodes = nodes.collect();
        viot::Viot { header: self.header(0), reserved: self.number(), nodes }
    }

    fn rimt(&mut self) -> rimt::Rimt {
        use rimt::NodeKind;
        let count = 1 + self.some(6);
        let nodes = (0..count).map(|_| {
            let kind = match self.some(3) {
                0 => {
                    let iommu = rimt::Iommu {
                        hardware_id: self.text(),
                        base: self.base(),
                        flags: self.number(),
                        proximity_domain: self.number(),
                        segment: self.number(),
                        bdf: self.number(),
                    };
                    let wires = (0..self.some(4))
                        .map(|_| rimt::InterruptWire { number: self.number(), flags: self.number() });
                    NodeKind::Iommu(iommu, wires.collect())
                }
                1 => {
                    let root = rimt::RootComplex {
                        flags: self.number(),
                        reserved: self.number(),
                        segment: self.number(),
                    };
                    NodeKind::RootComplex(root, self.rimt_mappings(count))
                }
                2 => NodeKind::PlatformDevice(self.name(12), self.rimt_mappings(count)),
                _ => NodeKind::Unknown(self.random.random_range(3..=u8::MAX), self.blob(24)),
            };
            rimt::Node { revision: self.number(), reserved: self.number(), id: self.number(), kind }
        });
        let nodes = nodes.collect();
        rimt::Rimt { header: self.header(1), reserved: self.number(), nodes }
    }

    fn rimt_mappings(&mut self, nodes: usize) -> Vec<rimt::Mapping> {
        let count = self.some(3);
        let mapping = |_| rimt::Mapping {
            info: rimt::MappingInfo {
                source_id_base: self.number(),
                count: self.number(),
                destination_base: self.number(),
                flags: self.number(),
            },
            destination: self.reference(nodes),
        };
        (0..count).map(mapping).collect()
    }
}

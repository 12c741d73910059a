//! Where a table's fields, as we decode them, differ from what iasl says.

use super::iasl::{Disassembly, Line};
use portcullis_firmware::acpi::{Block, Field, Value, fields};

/// What a comparison came to.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Fields and bits compared.
    pub checks: u64,
    /// What differs.
    pub differences: Vec<String>,
}

/// Compares every field that iasl names with ours, and sees that we have none that it does not show, as far as it reads.
#[must_use]
pub fn compare(table: &[u8], blocks: &[Block<'_>], theirs: &Disassembly) -> Comparison {
    let mut comparison = Comparison::default();
    let ours: Vec<&Field<'_>> = fields(blocks).collect();
    let signature = table.get(..4).unwrap_or_default();
    let mut seen = vec![false; table.len()];
    for line in &theirs.lines {
        // The eight bytes of the memory access properties follow as fields of their own.
        if line.value.is_empty() && line.name == "Memory Properties" {
            continue;
        }
        comparison.checks += 1;
        let result = if line.length == 0 {
            compare_bits(line, &ours)
        } else {
            compare_field(signature, line, &ours, table)
        };
        if let Err(difference) = result {
            comparison.differences.push(format!("{:#x}: {}: {difference}", line.offset, line.name));
        }
        let end = (line.offset + line.length).min(table.len());
        if let Some(seen) = seen.get_mut(line.offset..end) {
            seen.fill(true);
        }
    }
    for line in theirs.lines.iter().filter(|line| line.unknown) {
        let known = |block: &&Block<'_>| block.offset as usize == line.offset;
        if let Some(block) = blocks.iter().find(known) {
            let end = ((block.offset + block.length) as usize).min(table.len());
            seen[line.offset..end].fill(true);
        }
    }
    let read = seen.iter().rposition(|seen| *seen).map_or(0, |last| last + 1);
    for field in ours.iter().filter(|field| field.bits.is_none()) {
        let range = field.offset as usize..(field.offset + field.length) as usize;
        // What pads a name out is no field to iasl.
        if field.name != "Padding" && range.end <= read && !seen[range].iter().all(|seen| *seen) {
            comparison.differences.push(format!("{:#x}: iasl shows no {}", field.offset, field.name));
        }
        comparison.checks += 1;
    }
    comparison
}

fn compare_field(signature: &[u8], line: &Line, ours: &[&Field<'_>], table: &[u8]) -> Result<(), String> {
    let end = line.offset + line.length;
    let inside = |field: &&&Field<'_>| {
        field.bits.is_none()
            && field.offset as usize >= line.offset
            && ((field.offset + field.length) as usize) <= end
    };
    let fields: Vec<&Field<'_>> = ours.iter().filter(inside).copied().collect();
    // Of a structure that neither knows, iasl may show more of a header than there is.
    let unknown = |field: &&&Field<'_>| {
        let range = field.offset as usize..(field.offset + field.length) as usize;
        field.name == "Unknown bytes" && range.start <= line.offset && end <= range.end
    };
    if ours.iter().any(|field| unknown(&field)) {
        let same = table.get(line.offset..end) == Some(&bytes_of(line)?);
        return if same { Ok(()) } else { Err("iasl reads other bytes".into()) };
    }
    let covered: usize = fields.iter().map(|field| field.length as usize).sum();
    if covered != line.length {
        return Err(format!("{covered} of its {} bytes are ours", line.length));
    }
    if !fields.iter().any(|field| same_name(signature, &line.name, field.name)) {
        let names: Vec<_> = fields.iter().map(|field| field.name).collect();
        return Err(format!("we call it {names:?}"));
    }
    let mut value = Vec::new();
    for field in &fields {
        match field.value {
            Value::Number(number) => value.extend(&number.to_le_bytes()[..field.length as usize]),
            Value::Bytes(bytes) => value.extend(bytes),
            Value::Text(text) => {
                value.extend(text.bytes());
                value.resize(value.len() + field.length as usize - text.len(), 0);
            }
        }
    }
    let theirs = bytes_of(line)?;
    let same = if line.value.starts_with('"') {
        // iasl shows text up to its first NUL, and a blank for what cannot be printed.
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        value[..end].iter().map(|byte| if (b' '..=b'~').contains(byte) { *byte } else { b' ' }).eq(theirs)
    } else {
        value == theirs
    };
    if same { Ok(()) } else { Err(format!("iasl has {}, we {value:02x?}", line.value)) }
}

/// A value as iasl writes it, as the table has it.
fn bytes_of(line: &Line) -> Result<Vec<u8>, String> {
    let value = line.value.trim();
    let number = |text: &str, radix| {
        u64::from_str_radix(text, radix).map_err(|_| format!("`{value}` is not understood"))
    };
    if let Some(text) = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
        return Ok(text.replace("\\\\", "\\").into_bytes());
    }
    if value.contains(',') || value.contains(' ') {
        return value
            .split([',', ' '])
            .filter(|part| !part.is_empty())
            .map(|part| number(part, 16).map(|byte| byte as u8))
            .collect();
    }
    if line.length > 8 {
        return Err(format!("`{value}` is not understood"));
    }
    // iasl writes numbers in hexadecimal; 24-bit reserved fields too.
    Ok(number(value, 16)?.to_le_bytes()[..line.length].to_vec())
}

fn compare_bits(line: &Line, ours: &[&Field<'_>]) -> Result<(), String> {
    let mut bits = ours.iter().filter(|field| field.bits.is_some() && field.offset as usize == line.offset);
    let Some(field) = bits.find(|field| same_bits(&line.name, field.name)) else {
        return Err("we do not show these bits".into());
    };
    let theirs = u64::from_str_radix(&line.value, 16).map_err(|error| error.to_string())?;
    let ours = match field.value {
        // iasl 20200925 shows only the lower of the two bits.
        Value::Number(number) if line.name == "HTTU Override" => number & 1,
        Value::Number(number) => number,
        Value::Bytes(_) | Value::Text(_) => return Err("we show no number".into()),
    };
    if ours == theirs { Ok(()) } else { Err(format!("iasl has {}, we {}", line.value, field.value)) }
}

/// iasl's names of bits, and ours, which are the specification's.
fn same_bits(theirs: &str, ours: &str) -> bool {
    match theirs {
        "Coherency" => ours == "CPM",
        "Device Attribute" => ours == "DACS",
        "Coherent Walk" => ours == "Coherent Page Table Walk",
        name => name == ours,
    }
}

/// iasl's names of fields, and ours, which are the specification's.
fn same_name(signature: &[u8], theirs: &str, ours: &str) -> bool {
    let theirs = theirs.trim_end_matches(" (decoded below)");
    let names: &[&str] = match (signature, theirs) {
        (_, "Oem ID") => &["OEMID"],
        (_, "Oem Table ID") => &["OEM Table ID"],
        (_, "Oem Revision") => &["OEM Revision"],
        (_, "Asl Compiler ID") => &["Creator ID"],
        (_, "Asl Compiler Revision") => &["Creator Revision"],
        (_, "Table Length") => &["Length"],
        (b"DMAR" | b"IVRS", "Subtable Type" | "Device Scope Type" | "Entry Type") => &["Type"],
        (b"DMAR", "Entry Length") => &["Length"],
        // VT-d 4.0 gave meaning to bytes that were reserved.
        (b"DMAR", "Reserved") => &["Reserved", "Size", "Flags"],
        (b"DMAR", "PCI Segment Number") => &["Segment Number"],
        (b"DMAR", "PCI Bus Number") => &["Start Bus Number"],
        (b"DMAR", "PCI Path") => &["Path"],
        (b"DMAR", "Base Address") => &["Reserved Memory Region Base Address", "Register Base Address"],
        (b"DMAR", "End Address (limit)") => &["Reserved Memory Region Limit Address"],
        (b"DMAR", "Device Number") => &["ACPI Device Number"],
        (b"DMAR", "Device Name") => &["ACPI Object Name"],
        (b"IVRS", "Virtualization Info") => &["IVinfo", "IOMMU Info"],
        (b"IVRS", "DeviceId" | "Device ID") => &["DeviceID", "Reserved"],
        (b"IVRS", "Base Address") => &["IOMMU Base Address"],
        (b"IVRS", "Feature Reporting") => &["IOMMU Feature Info"],
        (b"IVRS", "Attributes") => &["IOMMU Attributes"],
        (b"IVRS", "EFR Image") => &["EFR Register Image"],
        (b"IVRS", "Reserved") => &["Reserved", "EFR2 Register Image", "PCI Segment Group", "Padding"],
        (b"IVRS", "Data Setting") => &["DTE Setting"],
        (b"IVRS", "Extended Data") => &["Extended DTE Setting", "Padding", "Unknown bytes"],
        (b"IVRS", "Source Used Device ID") => &["Source DeviceID"],
        (b"IVRS", "Start Address") => &["IVMD Start Address"],
        (b"IVRS", "Memory Length") => &["IVMD Memory Block Length"],
        (b"IORT", "Node Count") => &["Number of IORT Nodes"],
        (b"IORT", "Node Offset") => &["Offset to Array of IORT Nodes"],
        (b"IORT", "Optional Padding" | "Padding") => &["Padding", "Unknown bytes"],
        (b"IORT", "Reserved") => &["Reserved", "Identifier", "PASID Capabilities"],
        (b"IORT", "Mapping Count") => &["Number of ID Mappings"],
        (b"IORT", "Mapping Offset") => &["Reference to ID Array"],
        (b"IORT", "ItsCount") => &["Number of ITSs"],
        (b"IORT", "Identifiers") => &["GIC ITS Identifier"],
        (b"IORT", "Node Flags") => &["Node Flags"],
        (b"IORT", "Cache Coherency") => &["Cache Coherent Attribute"],
        (b"IORT", "Hints") => &["Allocation Hints"],
        (b"IORT", "Memory Flags") => &["Memory Access Flags"],
        (b"IORT", "Memory Size Limit") => &["Device Memory Address Size Limit", "Memory Address Size Limit"],
        (b"IORT", "Device Name") => &["Device Object Name"],
        (b"IORT", "Input base") => &["Input Base"],
        (b"IORT", "ID Count") => &["Number of IDs"],
        (b"IORT", "Global Interrupt Offset") => &["Reference to Global Interrupt Array"],
        (b"IORT", "Context Interrupt Count") => &["Number of Context Interrupts"],
        (b"IORT", "Context Interrupt Offset") => &["Reference to Context Interrupt Array"],
        (b"IORT", "PMU Interrupt Count") => &["Number of PMU Interrupts"],
        (b"IORT", "PMU Interrupt Offset") => &["Reference to PMU Interrupt Array"],
        (b"IORT", "NSgIrpt") => &["SMMU_NSgIrpt GSIV"],
        (b"IORT", "NSgIrpt Flags") => &["SMMU_NSgIrpt Interrupt Flags"],
        (b"IORT", "NSgCfgIrpt") => &["SMMU_NSgCfgIrpt GSIV"],
        (b"IORT", "NSgCfgIrpt Flags") => &["SMMU_NSgCfgIrpt Interrupt Flags"],
        (b"IORT", "Device ID Mapping Index") => &["DeviceID Mapping Index"],
        _ => &[],
    };
    names.contains(&ours) || (names.is_empty() && theirs == ours)
}

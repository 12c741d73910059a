//! `portcullis decode`: fields, values and meanings, where the specification has them.

use std::{
    io::Write,
    process::{Command, Stdio},
};

/// Standard output as JSON, one value a line, and the exit code.
fn decode(arguments: &[&str], input: &str) -> (Vec<serde_json::Value>, Option<i32>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["--json", "decode"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    child.stdin.take().expect("standard input").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("the command ends");
    let text = String::from_utf8(output.stdout).expect("JSON is text");
    (text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect(), output.status.code())
}

/// The value of one field.
fn field(decoded: &serde_json::Value, name: &str) -> String {
    let fields = decoded["fields"].as_array().expect("fields");
    let found =
        fields.iter().find(|row| row["field"] == name).unwrap_or_else(|| panic!("{name} in {decoded}"));
    assert!(!found["meaning"].as_str().expect("a meaning").is_empty(), "{name} has a meaning");
    found["value"].as_str().expect("a value").to_owned()
}

#[test]
fn table_entries() {
    // VT-d 9.3: present, TT 00, SSPTPTR 12345h, AW 2, DID 1.
    let (context, code) = decode(&["entry", "vtd-context", "0x12345001", "0x102"], "");
    assert_eq!(code, Some(0));
    assert_eq!((field(&context[0], "p"), field(&context[0], "tt")), ("1".into(), "Untranslated".into()));
    assert_eq!((field(&context[0], "aw"), field(&context[0], "did")), ("2".into(), "1".into()));
    assert_eq!(field(&context[0], "second_stage_table"), "0x12345000");
    // SMMUv3 5.2: V, Config 110, S2VMID 2Ah at bit 128, S2TTB at bit 196.
    let (ste, _) = decode(&["entry", "smmu-ste", "d", "0", "2a", "80000000"], "");
    assert_eq!((field(&ste[0], "config"), field(&ste[0], "s2vmid")), ("Stage2".into(), "0x2a".into()));
    assert_eq!(field(&ste[0], "stage2_table"), "0x80000000");
    // AMD 2.2.2: V, TV, mode 4, root 1234000h, IR and IW; domain 5.
    let (dte, _) = decode(&["entry", "amd-dte", "0x6000_0000_0123_4803", "5"], "");
    assert_eq!((field(&dte[0], "mode"), field(&dte[0], "domain_id")), ("4".into(), "5".into()));
    assert_eq!(field(&dte[0], "host_page_table"), "0x1234000");
    // RISC-V: V, R, W, X, A, D of page 80000h.
    let (pte, _) = decode(&["entry", "riscv-pte", "0x200000cf"], "");
    assert_eq!((field(&pte[0], "r"), field(&pte[0], "address")), ("1".into(), "0x80000000".into()));
    assert_eq!(decode(&["entry", "vtd-second-stage", "1", "2"], "").1, Some(2), "one word too many");
}

#[test]
fn interrupts() {
    // VT-d 5.1.2.2: handle 1 in bits 19:5, format 1, SHV 1; subhandle 3: index 4.
    let (remappable, _) = decode(&["msi", "fee00038", "3"], "");
    assert_eq!(field(&remappable[0], "interrupt_index"), "0x4");
    // SDM 3, 11.11: APIC ID 5, vector 30h, fixed, edge.
    let (plain, _) = decode(&["msi", "fee05000", "0x4030"], "");
    assert_eq!(
        (field(&plain[0], "destination_id"), field(&plain[0], "vector")),
        ("0x5".into(), "0x30".into())
    );
}

#[test]
fn registers() {
    // VT-d 11.4.2: ND 6, CM, SAGAW 2, as QEMU's unit has them.
    let (cap, _) = decode(&["register", "vtd", "8", "d2008c22260286"], "");
    assert_eq!((field(&cap[0], "nd"), field(&cap[0], "cm")), ("6".into(), "1".into()));
    assert_eq!(field(&cap[0], "sagaw"), "2");
    assert_eq!(decode(&["register", "vtd", "ffff", "0"], "").1, Some(2));
}

#[test]
fn faults_in_a_journal() {
    let journal = "\
{\"MESSAGE\":\"usb 1-1: new device\"}\n\
{\"MESSAGE\":\"DMAR: [DMA Write NO_PASID] Request device [65:00.0] fault addr 0x88a00000 [fault reason 0x05] PTE Write access is not set\"}\n\
Nov 21 01:02:03 host kernel: dmar_fault: 3 callbacks suppressed\n";
    let (records, code) = decode(&["fault", "--root", "/nonexistent"], journal);
    assert_eq!(code, Some(3));
    assert_eq!(records.len(), 2);
    assert_eq!(records[0]["record"]["Fault"]["fault"]["requester"]["Pci"], "0000:65:00.0");
    assert_eq!(records[0]["record"]["Fault"]["fault"]["code"], 5);
    assert_eq!(records[1]["record"]["Suppressed"]["count"], 3);
    assert_eq!(decode(&["fault"], "nothing here\n"), (Vec::new(), Some(0)));
}

#[test]
fn acpi_tables_are_shown_field_by_field() {
    // A DMAR table without structures: header, 39 bits, interrupt remapping.
    let mut table = vec![0u8; 48];
    table[0..4].copy_from_slice(b"DMAR");
    table[4] = 48;
    table[8] = 1;
    table[36] = 38;
    table[37] = 1;
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    table[9] = 0u8.wrapping_sub(sum);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &table).expect("written");
    let (shown, code) = decode(&["acpi", file.path().to_str().expect("text")], "");
    assert_eq!(code, Some(0), "{shown:?}");
    let fields = shown[0]["blocks"][0]["fields"].as_array().expect("fields");
    let width = fields.iter().find(|field| field["name"] == "Host Address Width").expect("the width");
    assert_eq!((&width["value"], &width["offset"]), (&38.into(), &36.into()));
    // A broken one ends with 3.
    std::fs::write(file.path(), &table[..20]).expect("written");
    assert_eq!(decode(&["acpi", file.path().to_str().expect("text")], "").1, Some(3));
}

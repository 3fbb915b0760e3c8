use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::layout::ACPI_TABLES;

/// A machine with all there is.
pub(crate) fn parameters() -> AcpiParameters {
    let interrupts = (0..32)
        .flat_map(|slot| (0..4).map(move |pin| (slot, pin)))
        .map(|(slot, pin)| PciInterrupt { slot, pin, gsi: 16 + u32::from(slot + pin) % 8 })
        .collect();
    AcpiParameters {
        cpus: 2,
        cpu_hotplug: None,
        memory: None,
        local_apic: 0xfee0_0000,
        io_apic: IoApic { id: 0, address: 0xfec0_0000, gsi_base: 0 },
        timer_gsi: 2,
        fixed: FixedHardware {
            pm1_event: 0x600,
            pm1_control: 0x604,
            pm_timer: 0x608,
            pm_timer_32_bit: true,
            gpe0: Some(GpeBlock { port: 0x620, length: 8 }),
            sci: 9,
            reset_port: 0xcf9,
            reset_value: 6,
            sleep_type_s5: 5,
            smi: None,
        },
        pci: PciHost {
            ecam_base: 0xe000_0000,
            last_bus: 255,
            config_ports: 0xcf8..0xd00,
            io: 0xc000..0xffff,
            mmio32: std::iter::once(0xc000_0000..0xe000_0000).collect(),
            mmio64: Some(0x40_0000_0000..0x80_0000_0000),
            interrupts,
        },
        serial: vec![SerialLine { ports: 0x3f8..0x400, gsi: 4 }],
        hpet: None,
        rtc: Some(IoWindow { ports: 0x70..0x72, gsi: 8 }),
        board_ports: vec![0x600..0x628, 0x4d0..0x4d2],
        i8042: true,
        ps2: Some(Ps2 { ports: [0x60, 0x64], keyboard_gsi: 1, mouse_gsi: 12 }),
        vga: false,
        panic_port: Some(0x505),
        generation: Some(GenerationId { address: 0xfed0_1000, length: 0x1000, gpe: 5 }),
        watchdog: None,
    }
}

fn build_all(parameters: &AcpiParameters) -> HashMap<&'static str, Table> {
    let tables = build(parameters, ACPI_TABLES).unwrap();
    tables.iter().map(|table| (table.name, table.clone())).collect()
}

fn number(bytes: &[u8], offset: usize, size: usize) -> u64 {
    bytes[offset..offset + size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[test]
fn tables_lead_to_each_other() {
    let tables = build_all(&parameters());
    let rsdp = &tables["RSDP"];
    assert_eq!(rsdp.address, ACPI_TABLES.start);
    assert_eq!(rsdp.bytes[..8], *b"RSD PTR ");
    assert_eq!((rsdp.bytes.len(), sum(&rsdp.bytes[..20]), sum(&rsdp.bytes)), (36, 0, 0));
    let xsdt = &tables["XSDT"];
    assert_eq!(number(&rsdp.bytes, 24, 8), xsdt.address);
    let rsdt = &tables["RSDT"];
    assert_eq!(number(&rsdp.bytes, 16, 4), rsdt.address);
    for (table, size) in [(xsdt, 8), (rsdt, 4)] {
        let entries: Vec<_> = table.bytes[36..].chunks(size).map(|entry| number(entry, 0, size)).collect();
        assert_eq!(entries, ["FADT", "MADT", "MCFG"].map(|name| tables[name].address));
    }
    let fadt = &tables["FADT"].bytes;
    assert_eq!(number(fadt, 36, 4), tables["FACS"].address);
    assert_eq!((number(fadt, 40, 4), number(fadt, 140, 8)), (tables["DSDT"].address, tables["DSDT"].address));
}

#[test]
fn every_table_has_its_length_its_checksum_and_its_own_place() {
    let tables = build(&parameters(), ACPI_TABLES).unwrap();
    let mut end = ACPI_TABLES.start;
    for table in tables.iter() {
        assert!(table.address >= end && table.address.is_multiple_of(64), "{}", table.name);
        end = table.address + table.bytes.len() as u64;
        if table.name != "RSDP" {
            assert_eq!(number(&table.bytes, 4, 4), table.bytes.len() as u64, "{}", table.name);
        }
        if table.name != "FACS" {
            assert_eq!(sum(&table.bytes), 0, "{}", table.name);
        }
    }
    assert!(end <= ACPI_TABLES.end);
}

#[test]
fn the_fadt_describes_the_fixed_hardware() {
    let fadt = &build_all(&parameters())["FADT"].bytes;
    assert_eq!(number(fadt, 46, 2), 9, "SCI");
    assert_eq!(number(fadt, 48, 4), 0, "no SMI command port");
    assert_eq!((number(fadt, 56, 4), number(fadt, 88, 1)), (0x600, 4), "PM1a event");
    assert_eq!((number(fadt, 64, 4), number(fadt, 89, 1)), (0x604, 2), "PM1a control");
    assert_eq!((number(fadt, 76, 4), number(fadt, 91, 1)), (0x608, 4), "PM timer");
    assert_eq!((number(fadt, 80, 4), number(fadt, 92, 1)), (0x620, 8), "GPE0");
    assert_eq!(number(fadt, 109, 2), 0x17, "legacy devices, 8042, no VGA, no ASPM");
    let flags = number(fadt, 112, 4);
    assert_eq!(flags & (1 << 20), 0, "not hardware-reduced");
    assert_eq!(flags & (1 << 4), 0, "a power button");
    assert_ne!(flags & (1 << 10), 0, "a reset register");
    assert_ne!(flags & (1 << 8), 0, "a timer of 32 bits");
    assert_eq!((fadt[116], number(fadt, 120, 8), fadt[128]), (1, 0xcf9, 6), "reset register");
}

/// The MADT's structures: type and fields.
fn structures(madt: &[u8]) -> Vec<(u8, &[u8])> {
    let mut rest = &madt[44..];
    let mut found = Vec::new();
    while let [kind, length, ..] = rest {
        let (structure, after) = rest.split_at(usize::from(*length));
        found.push((*kind, &structure[2..]));
        rest = after;
    }
    found
}

#[test]
fn the_madt_describes_the_interrupt_controllers() {
    let madt = &build_all(&parameters())["MADT"].bytes;
    assert_eq!((number(madt, 36, 4), number(madt, 40, 4)), (0xfee0_0000, 1));
    let expected: [(u8, &[u8]); 6] = [
        (0, &[0, 0, 1, 0, 0, 0]),
        (0, &[1, 1, 1, 0, 0, 0]),
        (1, &[0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]),
        (2, &[0, 0, 2, 0, 0, 0, 0, 0]),
        (2, &[0, 9, 9, 0, 0, 0, 0x0d, 0]),
        (4, &[0xff, 0, 0, 1]),
    ];
    assert_eq!(structures(madt), expected);
}

#[test]
fn processors_beyond_255_have_x2apics() {
    let tables = build_all(&AcpiParameters { cpus: 300, ..parameters() });
    let structures = structures(&tables["MADT"].bytes);
    let count = |kind| structures.iter().filter(|structure| structure.0 == kind).count();
    assert_eq!((count(0), count(9), count(10)), (255, 45, 1));
    let first = structures.iter().find(|structure| structure.0 == 9).unwrap().1;
    assert_eq!((number(first, 2, 4), number(first, 6, 4), number(first, 10, 4)), (255, 1, 255));
}

#[test]
fn processors_that_can_be_plugged_in_are_described() {
    let hotplug = CpuHotplug { ports: 0xcd8..0xce4, gpe: 2, present: vec![true, false, true] };
    let tables = build_all(&AcpiParameters { cpus: 3, cpu_hotplug: Some(hotplug), ..parameters() });
    let flags = structures(&tables["MADT"].bytes)
        .into_iter()
        .filter(|(kind, _)| *kind == 0)
        .map(|(_, fields)| number(fields, 2, 4))
        .collect::<Vec<_>>();
    assert_eq!(flags, [1, 2, 1], "there, or online capable");
    let dsdt = &tables["DSDT"].bytes;
    let count = |name: &[u8]| dsdt.windows(name.len()).filter(|bytes| *bytes == name).count();
    assert_eq!((count(b"_STA"), count(b"_MAT"), count(b"_EJ0"), count(b"_E02")), (3, 3, 2, 1));
}

#[test]
fn the_srat_tells_where_memory_can_be_plugged_in() {
    assert!(!build_all(&parameters()).contains_key("SRAT"));
    let memory = Some(MemoryLayout { ram: std::iter::once(0..0xa_0000).collect(), room: 1 << 32..3 << 32 });
    let srat = build_all(&AcpiParameters { memory, ..parameters() })["SRAT"].bytes.clone();
    assert_eq!(srat.len(), 48 + 2 * 16 + 2 * 40);
    assert_eq!((srat[48], srat[64 + 3], number(&srat, 64 + 4, 4)), (0, 1, 1), "the second processor");
    let memory = [80, 120].map(|at| [8, 16].map(|field| number(&srat, at + field, 8)));
    assert_eq!(memory, [[0, 0xa_0000], [1 << 32, 2 << 32]]);
    assert_eq!([80, 120].map(|at| number(&srat, at + 28, 4)), [1, 3], "enabled, hot pluggable");
}

#[test]
fn the_mcfg_gives_the_ecam() {
    let mcfg = &build_all(&parameters())["MCFG"].bytes;
    assert_eq!((number(mcfg, 44, 8), mcfg[54], mcfg[55]), (0xe000_0000, 0, 255));
}

#[test]
fn keyboard_and_mouse_are_described_where_they_are() {
    let has = |parameters: &AcpiParameters, name: &[u8]| {
        build_all(parameters)["DSDT"].bytes.windows(name.len()).any(|bytes| bytes == name)
    };
    let without = AcpiParameters { ps2: None, ..parameters() };
    for name in [b"KBD_", b"MOU_"] {
        assert!(has(&parameters(), name) && !has(&without, name));
    }
}

#[test]
fn what_cannot_be_expressed_is_refused() {
    let refuse = |change: &dyn Fn(&mut AcpiParameters)| {
        let mut parameters = parameters();
        change(&mut parameters);
        build(&parameters, ACPI_TABLES).unwrap_err()
    };
    let error = refuse(&|p| p.cpus = 0);
    assert_eq!(
        error.to_string(),
        "the number of vCPUs is 0x0, which no ACPI table can express: it must be 1 to 4096"
    );
    let error = refuse(&|p| p.pci.mmio32[0] = 0xc000_0000..0x1_0000_1000);
    assert!(matches!(error, AcpiError::Window { end: 0x1_0000_1000, .. }));
    assert!(matches!(refuse(&|p| p.pci.io = 5..5), AcpiError::Window { .. }));
    assert!(matches!(refuse(&|p| p.pci.ecam_base = u64::MAX << 20), AcpiError::Window { .. }));
    assert!(matches!(refuse(&|p| p.panic_port = Some(u16::MAX)), AcpiError::OutOfRange { .. }));
    assert!(matches!(refuse(&|p| p.generation.as_mut().unwrap().gpe = 32), AcpiError::OutOfRange { .. }));
    assert!(matches!(refuse(&|p| p.board_ports[0] = 0..0x200), AcpiError::Window { .. }));
    assert!(matches!(refuse(&|p| p.pci.interrupts[0].slot = 32), AcpiError::OutOfRange { .. }));
    assert!(matches!(refuse(&|p| p.cpus = 4096), AcpiError::NoRoom { .. }));
}

/// What a watchdog's driver finds for an action: what to do with which register and value.
fn accesses(wdat: &[u8], action: u8) -> Vec<(u8, u64, u64)> {
    let entries = wdat[68..].chunks(24).filter(|entry| entry[0] == action);
    entries.map(|entry| (entry[1], number(entry, 8, 8), number(entry, 16, 4))).collect()
}

#[test]
fn the_wdat_says_how_to_use_the_watchdog() {
    let tables =
        build_all(&AcpiParameters { watchdog: Some(Watchdog { ports: 0x660..0x680 }), ..parameters() });
    let wdat = &tables["WDAT"].bytes;
    assert_eq!((number(wdat, 36, 4), number(wdat, 64, 4) as usize), (32, wdat[68..].len() / 24));
    assert_eq!(number(wdat, 40, 5), 0xff_ffff_00ff, "no PCI device");
    assert_eq!([48, 52, 56].map(|at| number(wdat, at, 4)), [1200, 0x3ff, 2]);
    assert_eq!(accesses(wdat, 1), [(2, 0x660, 1)]);
    assert_eq!(accesses(wdat, 6), [(0x83, 0x672, 0), (2, 0x660, 1)]);
    assert_eq!(accesses(wdat, 9), [(2, 0x660, 1), (0x82, 0x668, 0)]);
}

/// Runs ACPICA's compiler, and says what it printed.
fn iasl(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("iasl").current_dir(directory).args(arguments).output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "iasl {arguments:?}: {text}");
    text
}

/// The reference implementation must read the tables, and find nothing wrong with what it reads.
#[test]
fn acpica_understands_the_tables() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("skipped: iasl is not installed (package acpica-tools)");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let hotplug = CpuHotplug { ports: 0xcd8..0xce4, gpe: 2, present: vec![true, false] };
    let memory = Some(MemoryLayout { ram: std::iter::once(0..0xa_0000).collect(), room: 1 << 32..2 << 32 });
    let watchdog = Some(Watchdog { ports: 0x660..0x680 });
    let pluggable = AcpiParameters { cpu_hotplug: Some(hotplug), memory, watchdog, ..parameters() };
    for (name, table) in build_all(&parameters()).into_iter().chain(build_all(&pluggable)) {
        if name == "RSDP" {
            continue; // Not a table of the common form: iasl does not read it.
        }
        let file = format!("{name}.aml");
        fs::write(directory.path().join(&file), &table.bytes).unwrap();
        let text = iasl(directory.path(), &["-d", &file]);
        assert!(!text.contains("Warning") && !text.contains("rror"), "{text}");
        let text = iasl(directory.path(), &["-p", "again", &format!("{name}.dsl")]);
        assert!(text.contains("0 Errors, 0 Warnings"), "{text}");
    }
}

//! The processors (ACPI 6.5, 8.4), and the methods by which they come and go (6.3).
//!
//! The registers behind the methods are those that QEMU documents (docs/specs/acpi_cpu_hotplug).

use acpi_tables::Aml;
use acpi_tables::aml::{
    Acquire, Arg, BufferData, Device, EISAName, Else, Equal, Field, FieldAccessType, FieldEntry,
    FieldLockRule, FieldUpdateRule, IO, If, Local, Method, MethodCall, Mutex, Name, Notify, ONE, OpRegion,
    OpRegionSpace, Path, Release, ResourceTemplate, Return, Scope, Store, While, ZERO,
};

use super::madt;
use super::parameters::CpuHotplug;

/// What a device that is there says of itself: present, enabled, shown, working (6.3.7).
const STA_PRESENT: u8 = 0xf;
/// What [`Notify`] says: look whether it is there; eject it (5.6.6).
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;
/// The register that selects the next CPU with news, by being written this.
const NEXT_EVENT: u8 = 0;

/// Adds `cpus` processors, which are all there for good, or come and go.
pub fn add(cpus: u32, hotplug: Option<&CpuHotplug>, aml: &mut Vec<u8>) {
    if let Some(hotplug) = hotplug {
        add_controller(cpus, hotplug, aml);
    }
    for id in 0..cpus {
        match hotplug {
            None => Device::new(
                name(id),
                vec![&Name::new("_HID".into(), &"ACPI0007"), &Name::new("_UID".into(), &id)],
            )
            .to_aml_bytes(aml),
            Some(_) => add_pluggable(id, aml),
        }
    }
}

/// The general-purpose event by which the guest learns that CPUs have come or are to go; for the root of the name space.
pub fn event(hotplug: &CpuHotplug) -> Vec<u8> {
    let mut aml = Vec::new();
    let scan = MethodCall::new("\\_SB_.CPUS.SCAN".into(), Vec::new());
    let handler = format!("_E{:02X}", hotplug.gpe);
    let handler = Method::new(handler.as_str().into(), 0, false, vec![&scan]);
    Scope::new("\\_GPE".into(), vec![&handler]).to_aml_bytes(&mut aml);
    aml
}

/// The name of a processor's device; `id` is its UID in the MADT.
fn name(id: u32) -> Path {
    format!("C{id:03X}").as_str().into()
}

/// A processor that says whether it is there, which local APIC it has, and, unless it is the first, lets itself be
/// ejected.
fn add_pluggable(id: u32, aml: &mut Vec<u8>) {
    let status = MethodCall::new("STAT".into(), vec![&id]);
    let eject = MethodCall::new("EJCT".into(), vec![&id]);
    let status = Return::new(&status);
    // Asked of processors that are there.
    let apic = BufferData::new(madt::processor(id, true));
    let (hid, uid, mat) = (
        Name::new("_HID".into(), &"ACPI0007"),
        Name::new("_UID".into(), &id),
        Name::new("_MAT".into(), &apic),
    );
    let status = Method::new("_STA".into(), 0, false, vec![&status]);
    let eject = Method::new("_EJ0".into(), 1, false, vec![&eject]);
    let mut children: Vec<&dyn Aml> = vec![&hid, &uid, &mat, &status];
    if id > 0 {
        children.push(&eject);
    }
    Device::new(name(id), children).to_aml_bytes(aml);
}

/// The registers, and what the processors' methods do with them. The methods lie beside the processors, so that these
/// find them; the lock keeps one from selecting while another looks.
fn add_controller(cpus: u32, hotplug: &CpuHotplug, aml: &mut Vec<u8>) {
    let start = hotplug.ports.start;
    let length = (hotplug.ports.end - start) as u8;
    let ports = IO::new(start, start, 1, length);
    let (hid, uid, crs) = (
        Name::new("_HID".into(), &EISAName::new("PNP0A06")),
        Name::new("_UID".into(), &"CPU hotplug"),
        Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports])),
    );
    let region = OpRegion::new("REGS".into(), OpRegionSpace::SystemIO, &start, &length);
    let bytes = Field::new(
        "REGS".into(),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![
            FieldEntry::Reserved(32),
            FieldEntry::Named(*b"ENAB", 1),
            FieldEntry::Named(*b"INSR", 1),
            FieldEntry::Named(*b"REMV", 1),
            FieldEntry::Named(*b"EJEC", 1),
            FieldEntry::Reserved(4),
            FieldEntry::Named(*b"CMND", 8),
        ],
    );
    let words = Field::new(
        "REGS".into(),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        vec![FieldEntry::Named(*b"SELE", 32), FieldEntry::Reserved(32), FieldEntry::Named(*b"DATA", 32)],
    );
    let mutex = Mutex::new("LOCK".into(), 0);
    Device::new("CPUS".into(), vec![&hid, &uid, &crs, &region, &bytes, &words, &mutex, &Scan])
        .to_aml_bytes(aml);
    add_status(aml);
    add_eject(aml);
    add_tell(cpus, aml);
}

fn register(name: &str) -> Path {
    format!("\\_SB_.CPUS.{name}").as_str().into()
}

/// Whether the processor of a UID is there, as `_STA` says it.
fn add_status(aml: &mut Vec<u8>) {
    let lock = register("LOCK");
    let (select, enabled) = (register("SELE"), register("ENAB"));
    let select = Store::new(&select, &Arg(0));
    let absent = Store::new(&Local(0), &ZERO);
    let present = Store::new(&Local(0), &STA_PRESENT);
    let enabled = Equal::new(&enabled, &ONE);
    let look = If::new(&enabled, vec![&present]);
    let (take, leave) = (Acquire::new(lock, u16::MAX), Release::new(register("LOCK")));
    let answer = Return::new(&Local(0));
    Method::new("STAT".into(), 1, true, vec![&take, &select, &absent, &look, &leave, &answer])
        .to_aml_bytes(aml);
}

/// Ejects the processor of a UID.
fn add_eject(aml: &mut Vec<u8>) {
    let (select, eject) = (register("SELE"), register("EJEC"));
    let (select, eject) = (Store::new(&select, &Arg(0)), Store::new(&eject, &ONE));
    let (take, leave) = (Acquire::new(register("LOCK"), u16::MAX), Release::new(register("LOCK")));
    Method::new("EJCT".into(), 1, true, vec![&take, &select, &eject, &leave]).to_aml_bytes(aml);
}

/// Notifies the processor of a UID.
fn add_tell(cpus: u32, aml: &mut Vec<u8>) {
    let names: Vec<_> = (0..cpus).map(name).collect();
    let ids: Vec<_> = (0..cpus).collect();
    let notices: Vec<_> = names.iter().map(|name| Notify::new(name, &Arg(1))).collect();
    let meant: Vec<_> = ids.iter().map(|id| Equal::new(&Arg(0), id)).collect();
    let cases: Vec<_> =
        meant.iter().zip(&notices).map(|(meant, notice)| If::new(meant, vec![notice])).collect();
    let cases = cases.iter().map(|case| case as &dyn Aml).collect();
    Method::new("TELL".into(), 2, true, cases).to_aml_bytes(aml);
}

/// The method that tells the system of each processor with news, until there is none.
struct Scan;

impl Aml for Scan {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let [command, inserting, removing] = ["CMND", "INSR", "REMV"].map(Path::new);
        let data = Path::new("DATA");
        let (take, leave) = (Acquire::new("LOCK".into(), u16::MAX), Release::new("LOCK".into()));
        let more = Store::new(&Local(0), &ONE);
        let no_more = Store::new(&Local(0), &ZERO);
        let next = Store::new(&command, &NEXT_EVENT);
        let tell = |what| MethodCall::new("TELL".into(), vec![&data, what]);
        let (tell_check, tell_eject) = (tell(&DEVICE_CHECK), tell(&EJECT_REQUEST));
        let (seen_insert, seen_remove) = (Store::new(&inserting, &ONE), Store::new(&removing, &ONE));
        let (is_inserting, is_removing) = (Equal::new(&inserting, &ONE), Equal::new(&removing, &ONE));
        let insert = If::new(&is_inserting, vec![&tell_check, &seen_insert, &more]);
        let remove = If::new(&is_removing, vec![&tell_eject, &seen_remove, &more]);
        let otherwise = Else::new(vec![&remove]);
        let goes_on = Equal::new(&Local(0), &ONE);
        let each = While::new(&goes_on, vec![&no_more, &next, &insert, &otherwise]);
        Method::new("SCAN".into(), 0, true, vec![&take, &more, &each, &leave]).to_aml_bytes(sink);
    }
}

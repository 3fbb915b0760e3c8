//! Interprocessor and message-signalled interrupts between APICs.

use viv_engine::{ExtIntTarget, Msi, MsiTarget};

use super::*;
use crate::inbox::{Inbox, Taken};

/// APICs with an interconnect between them.
struct Machine {
    apics: Vec<LocalApic>,
    inboxes: Vec<Arc<Inbox>>,
    interconnect: Interconnect,
}

impl Machine {
    fn new(count: u32) -> Self {
        let addresses: Vec<Arc<ApicAddress>> = (0..count).map(|_| Arc::default()).collect();
        let inboxes: Vec<Arc<Inbox>> = (0..count).map(|_| Arc::new(Inbox::new().unwrap())).collect();
        let interconnect = Interconnect::new(addresses.iter().cloned().zip(inboxes.iter().cloned()));
        let apics = (0..).zip(addresses).map(|(id, address)| {
            let mut apic = LocalApic::new(id, TSC_KHZ, 46, address);
            apic.set(reg::SVR, 0x1ff);
            apic
        });
        Self { apics: apics.collect(), inboxes, interconnect }
    }

    fn x2apic(count: u32) -> Self {
        let mut machine = Self::new(count);
        machine.apics.iter_mut().for_each(|apic| apic.set_base(X2APIC).unwrap());
        machine
    }

    /// Which vCPUs find what, and what that is.
    fn taken(&self) -> Vec<(usize, Taken)> {
        let all = self.inboxes.iter().map(|inbox| inbox.take()).enumerate();
        all.filter(|(_, taken)| *taken != Taken::default()).collect()
    }

    fn receivers(&self) -> Vec<usize> {
        self.taken().into_iter().map(|(id, _)| id).collect()
    }

    /// APIC `source` writes its ICR in xAPIC mode; who receives it.
    fn ipi(&mut self, source: usize, low: u32, destination: u32) -> Vec<usize> {
        self.apics[source].set(reg::ICR_HIGH, destination << 24);
        match self.apics[source].set(reg::ICR_LOW, low) {
            Effect::Send(message) => self.interconnect.deliver(&message),
            effect => assert_eq!(effect, Effect::None),
        }
        self.receivers()
    }

    /// APIC `source` writes its ICR in x2APIC mode; who receives it.
    fn x2ipi(&mut self, source: usize, low: u32, destination: u32) -> Vec<usize> {
        match self.apics[source].wrmsr(reg::ICR_LOW, u64::from(destination) << 32 | u64::from(low)) {
            Ok(Effect::Send(message)) => self.interconnect.deliver(&message),
            effect => assert_eq!(effect, Ok(Effect::None)),
        }
        self.receivers()
    }

    fn msi(&self, address: u64, data: u32) -> Vec<(usize, Taken)> {
        self.interconnect.send_msi(Msi { address, data });
        self.taken()
    }
}

const PHYSICAL: u32 = 0x4040;
const LOGICAL: u32 = 0x4840;
const NOBODY: [usize; 0] = [];

#[test]
fn physical_destinations() {
    let mut machine = Machine::new(4);
    assert_eq!(machine.ipi(0, PHYSICAL, 2), [2]);
    assert_eq!(machine.ipi(0, PHYSICAL, 0), [0], "itself by its id");
    assert_eq!(machine.ipi(0, PHYSICAL, 9), NOBODY);
    assert_eq!(machine.ipi(1, PHYSICAL, 0xff), [0, 1, 2, 3]);
    let mut machine = Machine::x2apic(4);
    assert_eq!(machine.x2ipi(0, PHYSICAL, 2), [2]);
    assert_eq!(machine.x2ipi(0, PHYSICAL, 0xff), NOBODY, "an id like any other");
    assert_eq!(machine.x2ipi(0, PHYSICAL, u32::MAX), [0, 1, 2, 3]);
    assert_eq!(machine.x2ipi(0, PHYSICAL, 0x102), NOBODY);
}

#[test]
fn shorthands() {
    let mut machine = Machine::new(3);
    assert_eq!(machine.ipi(1, PHYSICAL | 2 << 18, 0), [0, 1, 2]);
    assert_eq!(machine.ipi(1, PHYSICAL | 3 << 18, 0), [0, 2]);
    assert_eq!(machine.ipi(1, PHYSICAL | 1 << 18, 0), NOBODY, "it need not leave the APIC");
    assert_eq!(machine.apics[1].pending(), Some(0x40));
    let mut machine = Machine::x2apic(3);
    assert_eq!(machine.x2ipi(2, PHYSICAL | 3 << 18, 2), [0, 1]);
    machine.apics[0].wrmsr(reg::SELF_IPI, 0x55).unwrap();
    assert_eq!(machine.apics[0].pending(), Some(0x55));
}

#[test]
fn flat_logical_destinations() {
    let mut machine = Machine::new(4);
    assert_eq!(machine.ipi(0, LOGICAL, 0xff), [0, 1, 2, 3], "broadcast, though none has a logical id");
    for (id, apic) in machine.apics.iter_mut().enumerate() {
        apic.set(reg::LDR, 1 << (24 + id));
    }
    assert_eq!(machine.ipi(0, LOGICAL, 0b1010), [1, 3]);
    assert_eq!(machine.ipi(0, LOGICAL, 0xf0), NOBODY);
    assert_eq!(machine.ipi(0, LOGICAL, 0), NOBODY);
}

#[test]
fn clustered_logical_destinations() {
    let mut machine = Machine::new(4);
    for (apic, ldr) in machine.apics.iter_mut().zip([0x01, 0x02, 0x11, 0x12]) {
        apic.set(reg::DFR, 0x0fff_ffff);
        apic.set(reg::LDR, ldr << 24);
    }
    assert_eq!(machine.ipi(0, LOGICAL, 0x03), [0, 1]);
    assert_eq!(machine.ipi(0, LOGICAL, 0x12), [3]);
    assert_eq!(machine.ipi(0, LOGICAL, 0x23), NOBODY);
    assert_eq!(machine.ipi(0, LOGICAL, 0xf1), [0, 2], "one bit in every cluster");
    for apic in &mut machine.apics {
        apic.set(reg::DFR, 0x7fff_ffff);
    }
    assert_eq!(machine.ipi(0, LOGICAL, 0x03), NOBODY, "a model that there is not");
}

#[test]
fn x2apic_logical_destinations() {
    let mut machine = Machine::x2apic(20);
    assert_eq!(machine.x2ipi(0, LOGICAL, 0x0000_8005), [0, 2, 15]);
    assert_eq!(machine.x2ipi(0, LOGICAL, 0x0001_0009), [16, 19]);
    assert_eq!(machine.x2ipi(0, LOGICAL, 0x0002_0001), NOBODY);
    assert_eq!(machine.x2ipi(0, LOGICAL, u32::MAX).len(), 20);
}

#[test]
fn lowest_priority_goes_to_one_that_is_enabled_and_not_always_the_same() {
    let mut machine = Machine::new(4);
    for (id, apic) in machine.apics.iter_mut().enumerate() {
        apic.set(reg::LDR, 1 << (24 + id));
    }
    machine.apics[2].set(reg::SVR, 0xff);
    let mut counts = [0; 4];
    for _ in 0..20 {
        match machine.ipi(0, LOGICAL | 1 << 8, 0b1110)[..] {
            [one] => counts[one] += 1,
            ref other => panic!("received by {other:?}"),
        }
    }
    assert_eq!(counts, [0, 10, 0, 10]);
    machine.apics[1].set_base(DEFAULT_BASE).unwrap();
    machine.apics[3].set_base(DEFAULT_BASE).unwrap();
    assert_eq!(machine.ipi(0, LOGICAL | 1 << 8, 0b1110), NOBODY);
}

#[test]
fn init_sipi_and_nmi_take_their_own_way() {
    let mut machine = Machine::new(2);
    let mut send = |low: u32| {
        machine.apics[0].set(reg::ICR_HIGH, 1 << 24);
        if let Effect::Send(message) = machine.apics[0].set(reg::ICR_LOW, low) {
            machine.interconnect.deliver(&message);
        }
        machine.taken()
    };
    let init = Taken { init: true, ..Taken::default() };
    assert_eq!(send(0xc500), [(1, init)], "INIT, level assert, as Linux sends it");
    assert_eq!(send(0x8500), [], "INIT level de-assert does nothing");
    assert_eq!(send(0x069a), [(1, Taken { sipi: Some(0x9a), ..Taken::default() })]);
    assert_eq!(send(0x0400), [(1, Taken { nmi: true, ..Taken::default() })]);
    assert_eq!(send(0x0200), [], "SMI");
    assert_eq!(send(0x0340), [], "reserved");
    assert_eq!(send(0x0740), [], "ExtINT cannot be sent");
}

#[test]
fn init_reaches_an_apic_disabled_by_software_but_not_one_that_is_off() {
    let mut machine = Machine::new(2);
    machine.apics[1].set(reg::SVR, 0xff);
    assert_eq!(machine.ipi(0, 0x4500, 1), [1]);
    machine.apics[1].set_base(DEFAULT_BASE).unwrap();
    assert_eq!(machine.ipi(0, 0x4500, 1), NOBODY);
}

#[test]
fn msis() {
    let machine = Machine::x2apic(2);
    let edge = |vector: u8| {
        let mut taken = Taken::default();
        taken.edge.insert(vector);
        taken
    };
    assert_eq!(machine.msi(0xfee0_1000, 0x4031), [(1, edge(0x31))]);
    let mut level = Taken::default();
    level.level.insert(0x32);
    assert_eq!(machine.msi(0xfee0_0000, 0xc032), [(0, level)]);
    assert_eq!(machine.msi(0xfeef_f000, 0x33), [(0, edge(0x33)), (1, edge(0x33))], "broadcast");
    assert_eq!(machine.msi(0xfee0_2004, 0x34), [(1, edge(0x34))], "logical: bit 1 of cluster 0");
    assert_eq!(machine.msi(0xfee0_300c, 0x35).len(), 1, "to one of two");
    assert_eq!(machine.msi(0xfee0_1020, 0x36), [], "id 257");
    assert_eq!(machine.msi(0xfed0_1000, 0x37), [], "not the APICs' window");
    assert_eq!(machine.msi(0x1_fee0_1000, 0x37), []);
    assert_eq!(machine.msi(0xfee0_1000, 0x0337), [], "reserved delivery mode");
}

#[test]
fn intr_reaches_every_vcpu() {
    let machine = Machine::new(2);
    machine.interconnect.set_extint(true);
    assert!(machine.inboxes.iter().all(|inbox| inbox.extint()));
    machine.interconnect.set_extint(false);
    assert!(machine.inboxes.iter().all(|inbox| !inbox.extint()));
}

#[test]
fn the_icr_reads_back() {
    let mut machine = Machine::new(1);
    machine.ipi(0, 0xffff_5fd0, 0xab);
    assert_eq!(machine.apics[0].get(reg::ICR_HIGH), 0xab00_0000);
    assert_eq!(machine.apics[0].get(reg::ICR_LOW) & !0x000c_cfff, 0, "reserved bits and status read 0");
    let mut apic = x2apic(0);
    apic.wrmsr(reg::ICR_LOW, 0x1234_5678_0000_5040).unwrap();
    assert_eq!(apic.rdmsr(reg::ICR_LOW), Ok(0x1234_5678_0000_4040));
}
